"""Models of sound, time series and tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.coverage.field.model import Ids, Model, Real, made, signal

SEPARATION: tuple[tuple[str, str, tuple[int, ...], Mapping[str, Any]], ...] = (
    (
        "ConvTasNet",
        "Conv-TasNet",
        (800,),
        {"n_src": 2, "n_repeats": 1, "n_blocks": 2, "bn_chan": 16, "hid_chan": 32, "skip_chan": 16, "n_filters": 32},
    ),
    (
        "DPRNNTasNet",
        "DPRNN",
        (800,),
        {"n_src": 2, "bn_chan": 16, "hid_size": 16, "chunk_size": 20, "n_repeats": 1, "n_filters": 32},
    ),
    (
        "DPTNet",
        "DPTNet",
        (800,),
        {"n_src": 2, "n_heads": 2, "ff_hid": 32, "chunk_size": 20, "n_repeats": 1, "n_filters": 32},
    ),
    (
        "SuDORMRFNet",
        "SuDoRM-RF",
        (800,),
        {"n_src": 2, "bn_chan": 16, "num_blocks": 1, "upsampling_depth": 2, "n_filters": 32},
    ),
    (
        "SuDORMRFImprovedNet",
        "SuDoRM-RF",
        (800,),
        {"n_src": 2, "bn_chan": 16, "num_blocks": 1, "upsampling_depth": 2, "n_filters": 32},
    ),
    (
        "LSTMTasNet",
        "TasNet",
        (800,),
        {"n_src": 2, "hid_size": 16, "n_layers": 1, "n_filters": 32, "kernel_size": 16, "stride": 8},
    ),
    ("DeMask", "DeMask", (4000,), {"hidden_dims": (32,)}),
    ("DCUNet", "DCUNet", (8000,), {"architecture": "mini", "stft_n_filters": 256}),
    ("DCCRNet", "DCCRN", (4000,), {"architecture": "mini", "stft_n_filters": 256}),
)

SERIES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("FCN.FCN", "FCN (series)", {}),
    ("ResNet.ResNet", "ResNet (series)", {}),
    ("ResCNN.ResCNN", "ResCNN", {}),
    ("InceptionTime.InceptionTime", "InceptionTime", {"nf": 8}),
    ("InceptionTimePlus.InceptionTimePlus", "InceptionTime", {"nf": 8}),
    ("XceptionTime.XceptionTime", "XceptionTime", {"nf": 8}),
    ("OmniScaleCNN.OmniScaleCNN", "OmniScale CNN", {"seq_len": 60}),
    ("TCN.TCN", "TCN", {"layers": [16, 16]}),
    ("MLP.MLP", "MLP", {"seq_len": 60, "layers": [32, 32]}),
    ("TST.TST", "TST", {"seq_len": 60, "n_layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 64}),
    ("TSTPlus.TSTPlus", "TST", {"seq_len": 60, "n_layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 64}),
    ("TSiTPlus.TSiTPlus", "TSiT", {"seq_len": 60, "n_layers": 2, "d_model": 32, "n_heads": 4}),
    (
        "PatchTST.PatchTST",
        "PatchTST",
        {"seq_len": 60, "pred_dim": 12, "n_layers": 2, "d_model": 16, "n_heads": 2, "d_ff": 32},
    ),
    (
        "TSPerceiver.TSPerceiver",
        "Perceiver",
        {"seq_len": 60, "n_latents": 8, "d_latent": 16, "n_layers": 1, "self_per_cross_attn": 1},
    ),
    ("TSSequencerPlus.TSSequencerPlus", "Sequencer", {"seq_len": 60, "d_model": 32, "depth": 1}),
    ("ConvTranPlus.ConvTranPlus", "ConvTran", {"seq_len": 60, "d_model": 16, "n_heads": 2, "dim_ff": 32}),
    ("RNN.LSTM", "LSTM", {"hidden_size": 16}),
    ("RNN.GRU", "GRU", {"hidden_size": 16}),
    ("RNN_FCN.LSTM_FCN", "LSTM-FCN", {"seq_len": 60, "hidden_size": 16}),
    ("RNN_FCN.MGRU_FCN", "LSTM-FCN", {"seq_len": 60, "hidden_size": 16}),
    ("gMLP.gMLP", "gMLP", {"seq_len": 60, "d_model": 32, "d_ffn": 64, "depth": 2}),
    ("mWDN.mWDN", "mWDN", {"seq_len": 60, "levels": 2}),
    ("XCM.XCM", "XCM", {"seq_len": 60, "nf": 16}),
    ("XResNet1d.xresnet1d18", "XResNet", {}),
)

AUDIO: tuple[tuple[str, str, tuple[tuple[int, ...], ...], Mapping[str, Any]], ...] = (
    ("Wav2Letter", "Wav2Letter", ((1, 3200),), {"num_classes": 8, "input_type": "waveform"}),
    ("DeepSpeech", "DeepSpeech", ((1, 20, 16),), {"n_feature": 16, "n_hidden": 32}),
    (
        "WaveRNN",
        "WaveRNN",
        ((1, 180), (1, 20, 7)),
        {
            "upsample_scales": [3, 4, 3],
            "n_classes": 8,
            "hop_length": 36,
            "n_res_block": 1,
            "n_rnn": 16,
            "n_fc": 16,
            "kernel_size": 5,
            "n_freq": 20,
            "n_hidden": 16,
            "n_output": 16,
        },
    ),
    ("HDemucs", "HDemucs", ((2, 44100),), {"sources": ["a", "b"], "channels": 8, "depth": 4, "nfft": 512}),
    (
        "ConvTasNet",
        "Conv-TasNet",
        ((1, 800),),
        {
            "enc_num_feats": 32,
            "msk_num_feats": 16,
            "msk_num_hidden_feats": 32,
            "msk_num_layers": 2,
            "msk_num_stacks": 1,
        },
    ),
)


def models() -> Iterator[Model]:
    """All models of this file."""
    for name, family, shape, options in SEPARATION:
        yield signal("asteroid", name, family, made(f"asteroid.models:{name}", **options), *shape)
    for name, family, options in SERIES:
        build = made(
            f"tsai.models.{name.replace('.', ':')}", 3, **({} if "PatchTST" in name else {"c_out": 4}), **options
        )
        yield signal("tsai", name.split(".")[1], family, build, 3, 60)
    for name, family, shapes, options in AUDIO:
        first = tuple(Real((2, *shape)) for shape in shapes)
        longer = tuple(
            Real(
                (
                    3,
                    *shape[:-1],
                    shape[-1]
                    + (
                        36 * 2
                        if name == "WaveRNN" and shape[0] == 1 and len(shape) == 2
                        else 2
                        if name == "WaveRNN"
                        else shape[-1] // 2
                    ),
                )
            )
            for shape in shapes
        )
        yield Model("torchaudio", name, family, made(f"torchaudio.models:{name}", **options), first, longer)
    yield signal("pytorch_tcn", "TCN", "TCN", made("pytorch_tcn:TCN", 8, [16, 16]), 8, 40)
    yield signal(
        "conformer",
        "ConformerBlock",
        "Conformer",
        made("conformer:ConformerBlock", dim=32, dim_head=8, heads=4),
        20,
        32,
    )
    yield signal(
        "nystrom_attention",
        "Nystromformer",
        "Nystromformer",
        made("nystrom_attention:Nystromformer", dim=32, dim_head=8, heads=4, depth=1, num_landmarks=8),
        16,
        32,
    )
    yield signal(
        "linformer",
        "Linformer",
        "Linformer",
        made("linformer:Linformer", dim=32, seq_len=16, depth=2, heads=4, k=8),
        16,
        32,
    )
    rtdl = "rtdl_revisiting_models"
    yield signal(rtdl, "MLP", "MLP", made(f"{rtdl}:MLP", d_in=12, d_out=2, n_blocks=2, d_block=32, dropout=0.1), 12)
    yield signal(
        rtdl,
        "ResNet",
        "ResNet (tables)",
        made(
            f"{rtdl}:ResNet",
            d_in=12,
            d_out=2,
            n_blocks=2,
            d_block=32,
            d_hidden=None,
            d_hidden_multiplier=2.0,
            dropout1=0.1,
            dropout2=0.0,
        ),
        12,
    )
    ft = made(
        f"{rtdl}:FTTransformer",
        n_cont_features=6,
        cat_cardinalities=[4, 5],
        d_out=2,
        n_blocks=2,
        d_block=32,
        attention_n_heads=4,
        attention_dropout=0.1,
        ffn_d_hidden=None,
        ffn_d_hidden_multiplier=1.5,
        ffn_dropout=0.1,
        residual_dropout=0.0,
    )
    yield Model(
        rtdl, "FTTransformer", "FT-Transformer", ft, (Real((2, 6)), Ids((2, 2), 4)), (Real((3, 6)), Ids((3, 2), 4))
    )
    x = "x_transformers:"
    layers = made("x_transformers:Encoder", dim=32, depth=2, heads=4, attn_dim_head=8)
    del layers
    yield from _x_transformers(x)


def _x_transformers(x: str) -> Iterator[Model]:
    for name, options in {
        "Encoder": {},
        "Encoder-rotary": {"rotary_pos_emb": True},
        "Encoder-glu": {"ff_glu": True, "use_rmsnorm": True},
        "Encoder-one-kv": {"attn_one_kv_head": True},
    }.items():
        yield signal(
            "x_transformers",
            name,
            "x-transformers",
            made(f"{x}Encoder", dim=32, depth=2, heads=4, attn_dim_head=8, **options),
            16,
            32,
        )
