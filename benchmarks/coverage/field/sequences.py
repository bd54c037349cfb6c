"""Models of sound, time series and tables."""

from typing import Any

from benchmarks.coverage.model import Ids, Model, Real, made, signal

LENGTH = 60
"""Of the time series."""

TABLES = "rtdl_revisiting_models"


def voice(name: str, family: str, length: int, **options: Any) -> Model:
    """A model of asteroid, which takes a wave of this length."""
    return signal("asteroid", name, family, made(f"asteroid.models:{name}", **options), length)


def series(name: str, family: str, classes: int = 4, /, **options: Any) -> Model:
    """A model of tsai, for series of three values; its module is named like the class, or given as "module:class"."""
    module, _, kind = name.rpartition(":")
    build = made(f"tsai.models.{module or kind}:{kind}", 3, c_out=classes, **options)
    return signal("tsai", kind, family, build, 3, LENGTH)


def audio(name: str, family: str, *shape: int, **options: Any) -> Model:
    """A model of torchaudio. shape: of one example."""
    return signal("torchaudio", name, family, made(f"torchaudio.models:{name}", **options), *shape)


def layers(name: str, **options: Any) -> Model:
    """An encoder of x_transformers."""
    build = made("x_transformers:Encoder", dim=32, depth=2, heads=4, attn_dim_head=8, **options)
    return signal("x_transformers", name, "x-transformers", build, 16, 32)


def single(package: str, name: str, family: str, *shape: int, **options: Any) -> Model:
    """The model of a package. shape: of one example."""
    return signal(package, name, family, made(f"{package}:{name}", **options), *shape)


WAVE_RNN = Model(
    "torchaudio",
    "WaveRNN",
    "WaveRNN",
    made(
        "torchaudio.models:WaveRNN",
        upsample_scales=[3, 4, 3],
        n_classes=8,
        hop_length=36,
        n_res_block=1,
        n_rnn=16,
        n_fc=16,
        kernel_size=5,
        n_freq=20,
        n_hidden=16,
        n_output=16,
    ),
    (Real((2, 1, 108)), Real((2, 1, 20, 7))),
    (Real((3, 1, 180)), Real((3, 1, 20, 9))),
)
MODELS = (
    voice(
        "ConvTasNet",
        "Conv-TasNet",
        800,
        n_src=2,
        n_repeats=1,
        n_blocks=2,
        bn_chan=16,
        hid_chan=32,
        skip_chan=16,
        n_filters=32,
    ),
    voice("DPRNNTasNet", "DPRNN", 800, n_src=2, bn_chan=16, hid_size=16, chunk_size=20, n_repeats=1, n_filters=32),
    voice("DPTNet", "DPTNet", 800, n_src=2, n_heads=2, ff_hid=32, chunk_size=20, n_repeats=1, n_filters=32),
    voice("SuDORMRFNet", "SuDoRM-RF", 800, n_src=2, bn_chan=16, num_blocks=1, upsampling_depth=2, n_filters=32),
    voice("SuDORMRFImprovedNet", "SuDoRM-RF", 800, n_src=2, bn_chan=16, num_blocks=1, upsampling_depth=2, n_filters=32),
    voice("LSTMTasNet", "TasNet", 800, n_src=2, hid_size=16, n_layers=1, n_filters=32, kernel_size=16, stride=8),
    voice("DeMask", "DeMask", 4000, hidden_dims=(32,)),
    voice(
        "DCUNet",
        "DCUNet",
        8000,
        architecture="mini",
        stft_n_filters=256,
        stft_kernel_size=256,
        stft_stride=64,
        fix_length_mode="pad",
    ),
    series("FCN", "FCN (series)"),
    series("ResNet", "ResNet (series)"),
    series("ResCNN", "ResCNN"),
    series("InceptionTime", "InceptionTime", nf=8),
    series("InceptionTimePlus", "InceptionTime", nf=8),
    series("XceptionTime", "XceptionTime", nf=8),
    series("OmniScaleCNN", "OmniScale CNN", seq_len=LENGTH),
    series("TCN", "TCN", layers=[16, 16]),
    series("MLP", "MLP", seq_len=LENGTH, layers=[32, 32], ps=[0.1, 0.1]),
    series("TST", "TST", seq_len=LENGTH, n_layers=2, d_model=32, n_heads=4, d_ff=64),
    series("TSTPlus", "TST", seq_len=LENGTH, n_layers=2, d_model=32, n_heads=4, d_ff=64),
    series("TSiTPlus", "TSiT", seq_len=LENGTH, n_layers=2, d_model=32, n_heads=4),
    series("PatchTST", "PatchTST", 3, seq_len=LENGTH, pred_dim=12, n_layers=2, d_model=16, n_heads=2, d_ff=32),
    series("TSPerceiver", "Perceiver", seq_len=LENGTH, n_latents=8, d_latent=16, n_layers=1, self_per_cross_attn=1),
    series("TSSequencerPlus", "Sequencer", seq_len=LENGTH, d_model=32, depth=1),
    series("ConvTranPlus", "ConvTran", seq_len=LENGTH, d_model=16, n_heads=8, dim_ff=32),
    series("RNN:LSTM", "LSTM", hidden_size=16),
    series("RNN:GRU", "GRU", hidden_size=16),
    series("RNN_FCN:LSTM_FCN", "LSTM-FCN", seq_len=LENGTH, hidden_size=16),
    series("RNN_FCN:MGRU_FCN", "LSTM-FCN", seq_len=LENGTH, hidden_size=16),
    series("gMLP", "gMLP", seq_len=LENGTH, d_model=32, d_ffn=64, depth=2),
    series("mWDN", "mWDN", seq_len=LENGTH, levels=2),
    series("XCM", "XCM", seq_len=LENGTH, nf=16),
    series("XResNet1d:xresnet1d18", "XResNet"),
    audio("Wav2Letter", "Wav2Letter", 1, 3200, num_classes=8, input_type="waveform"),
    audio("DeepSpeech", "DeepSpeech", 1, 20, 16, n_feature=16, n_hidden=32),
    WAVE_RNN,
    audio("HDemucs", "HDemucs", 2, 8192, sources=["a", "b"], channels=8, depth=4, nfft=256),
    audio(
        "ConvTasNet",
        "Conv-TasNet",
        1,
        800,
        enc_num_feats=32,
        msk_num_feats=16,
        msk_num_hidden_feats=32,
        msk_num_layers=2,
        msk_num_stacks=1,
    ),
    signal("pytorch_tcn", "TCN", "TCN", made("pytorch_tcn:TCN", 8, [16, 16]), 8, 40),
    single("conformer", "ConformerBlock", "Conformer", 20, 32, dim=32, dim_head=8, heads=4),
    single(
        "nystrom_attention",
        "Nystromformer",
        "Nystromformer",
        16,
        32,
        dim=32,
        dim_head=8,
        heads=4,
        depth=1,
        num_landmarks=8,
    ),
    single("linformer", "Linformer", "Linformer", 16, 32, dim=32, seq_len=16, depth=2, heads=4, k=8),
    single(TABLES, "MLP", "MLP", 12, d_in=12, d_out=2, n_blocks=2, d_block=32, dropout=0.1),
    single(
        TABLES,
        "ResNet",
        "ResNet (tables)",
        12,
        d_in=12,
        d_out=2,
        n_blocks=2,
        d_block=32,
        d_hidden=None,
        d_hidden_multiplier=2.0,
        dropout1=0.1,
        dropout2=0.0,
    ),
    Model(
        TABLES,
        "FTTransformer",
        "FT-Transformer",
        made(
            f"{TABLES}:FTTransformer",
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
        ),
        (Real((2, 6)), Ids((2, 2), 4)),
        (Real((3, 6)), Ids((3, 2), 4)),
    ),
    layers("Encoder"),
    layers("Encoder-rotary", rotary_pos_emb=True),
    layers("Encoder-glu", ff_glu=True, use_rmsnorm=True),
    layers("Encoder-one-kv", attn_one_kv_head=True),
)
