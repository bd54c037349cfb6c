"""Models of transformers and diffusers, built from small configs."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.coverage.model import NOTHING, Model, Real, image, made, signal, text

ENCODER: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
WORDS: Mapping[str, Any] = {**ENCODER, "vocab_size": 60, "max_position_embeddings": 64, "pad_token_id": 0}
GROUPED: Mapping[str, Any] = {**WORDS, "num_key_value_heads": 2, "head_dim": 8}
PATCHES: Mapping[str, Any] = {**ENCODER, "image_size": 32, "patch_size": 8}
SPEECH: Mapping[str, Any] = {
    **ENCODER,
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
GPT: Mapping[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}
XLM: Mapping[str, Any] = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 60}
T5: Mapping[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 60}
STAGES: Mapping[str, Any] = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
PYRAMID: Mapping[str, Any] = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
}
WINDOWS: Mapping[str, Any] = {
    "image_size": 64,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
AUTOENCODER: Mapping[str, Any] = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}


@dataclass(frozen=True)
class FromConfig:
    """A model of transformers with a config of these options; as in training, it keeps no keys for the next word."""

    name: str
    options: Mapping[str, Any]

    def __call__(self) -> nn.Module:
        transformers = importlib.import_module("transformers")
        kind = getattr(transformers, self.name)
        config = kind.config_class(**self.options)
        config.use_cache = False
        model: nn.Module = kind(config)
        return model


def words(name: str, family: str, base: Mapping[str, Any] = NOTHING, /, **options: Any) -> Model:
    """A model that reads words."""
    return text("transformers", name, family, FromConfig(name, {**base, **options}))


def images(name: str, family: str, side: int, base: Mapping[str, Any] = NOTHING, /, **options: Any) -> Model:
    """A model that reads images of side x side pixels."""
    return image("transformers", name, family, FromConfig(name, {**base, **options}), side)


def speech(name: str, family: str, **options: Any) -> Model:
    """A model that reads waves."""
    return signal("transformers", name, family, FromConfig(name, {**SPEECH, **options}), 800)


def diffuser(name: str, family: str, *shapes: tuple[int, ...], **options: Any) -> Model:
    """A model of diffusers. shapes: of one example of each of its inputs."""
    first, second = (tuple(Real((batch, *shape)) for shape in shapes) for batch in (2, 3))
    return Model("diffusers", name, family, made(f"diffusers:{name}", **options), first, second)


MODELS = (
    words("BertModel", "BERT", WORDS),
    words("BertForSequenceClassification", "BERT", WORDS),
    words("RobertaModel", "BERT", WORDS),
    words("XLMRobertaModel", "BERT", WORDS),
    words("CamembertModel", "BERT", WORDS),
    words("MegatronBertModel", "BERT", WORDS),
    words("RobertaPreLayerNormModel", "BERT", WORDS),
    words("ErnieModel", "BERT", WORDS),
    words("DistilBertModel", "DistilBERT", dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=60),
    words("AlbertModel", "ALBERT", WORDS, embedding_size=16),
    words("ElectraModel", "ELECTRA", WORDS, embedding_size=16),
    words("MPNetModel", "MPNet", WORDS),
    words("RemBertModel", "RemBERT", WORDS, input_embedding_size=16),
    words("ConvBertModel", "ConvBERT", WORDS, embedding_size=32, head_ratio=2, conv_kernel_size=3),
    words("SqueezeBertModel", "SqueezeBERT", WORDS, embedding_size=32),
    words("MobileBertModel", "MobileBERT", WORDS, embedding_size=32, intra_bottleneck_size=32),
    words("FNetModel", "FNet", WORDS),
    words("NystromformerModel", "Nystromformer", WORDS, segment_means_seq_len=64, num_landmarks=64),
    words("RoFormerModel", "RoFormer", WORDS),
    words("DebertaModel", "DeBERTa", WORDS, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    words("DebertaV2Model", "DeBERTa", WORDS, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    words("ModernBertModel", "ModernBERT", WORDS, attn_implementation="sdpa"),
    words("EsmModel", "ESM", WORDS, mask_token_id=4),
    words("XmodModel", "X-MOD", WORDS, languages=["en"], default_language="en"),
    words("SplinterModel", "BERT", WORDS),
    words("CanineModel", "CANINE", WORDS, num_hash_buckets=64, local_transformer_stride=8),
    words("BigBirdModel", "BigBird", WORDS, attention_type="original_full"),
    words("FunnelBaseModel", "Funnel", block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=64),
    words("GPT2Model", "GPT-2", GPT),
    words("GPT2LMHeadModel", "GPT-2", GPT),
    words("OpenAIGPTModel", "GPT", GPT),
    words(
        "GPTNeoModel",
        "GPT-Neo",
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        vocab_size=60,
    ),
    words("GPTNeoXModel", "GPT-NeoX", WORDS),
    words("GPTJModel", "GPT-J", GPT, rotary_dim=4),
    words("CodeGenModel", "CodeGen", GPT, rotary_dim=4),
    words("GPTBigCodeModel", "GPT-BigCode", GPT),
    words("OPTModel", "OPT", WORDS, ffn_dim=64, word_embed_proj_dim=32),
    words("BloomModel", "BLOOM", hidden_size=32, n_layer=2, n_head=4, vocab_size=60),
    words("MptModel", "MPT", d_model=32, n_layers=2, n_heads=4, vocab_size=60, max_seq_len=64),
    words("FalconModel", "Falcon", WORDS, alibi=False),
    words("LlamaModel", "Llama", GROUPED),
    words("LlamaForCausalLM", "Llama", GROUPED),
    words("MistralModel", "Llama", GROUPED),
    words("Qwen2Model", "Qwen", GROUPED),
    words("Qwen3Model", "Qwen", GROUPED),
    words("GemmaModel", "Gemma", GROUPED),
    words("Gemma2Model", "Gemma", GROUPED),
    words("PhiModel", "Phi", GROUPED),
    words("Phi3Model", "Phi", GROUPED),
    words("CohereModel", "Cohere", GROUPED),
    words("GraniteModel", "Granite", GROUPED),
    words("OlmoModel", "OLMo", GROUPED),
    words("Olmo2Model", "OLMo", GROUPED),
    words("StableLmModel", "StableLM", GROUPED),
    words("Starcoder2Model", "StarCoder2", GROUPED),
    words("GlmModel", "GLM", GROUPED),
    words("HeliumModel", "Llama", GROUPED),
    words("SmolLM3Model", "Llama", GROUPED),
    words("NemotronModel", "Nemotron", GROUPED),
    words("PersimmonModel", "Persimmon", WORDS),
    words("MixtralModel", "Mixtral", GROUPED, num_local_experts=2, num_experts_per_tok=1),
    words("MambaModel", "Mamba", hidden_size=16, state_size=4, num_hidden_layers=2, vocab_size=60),
    words("RwkvModel", "RWKV", hidden_size=32, num_hidden_layers=2, vocab_size=60, context_length=64),
    words("XGLMModel", "XGLM", d_model=32, num_layers=2, attention_heads=4, ffn_dim=64, vocab_size=60),
    words("BioGptModel", "BioGPT", WORDS),
    words("CTRLModel", "CTRL", GPT, dff=64),
    words("XLNetModel", "XLNet", d_model=32, n_layer=2, n_head=4, d_inner=64, vocab_size=60),
    words("FlaubertModel", "XLM", XLM),
    words("XLMModel", "XLM", XLM),
    words("T5EncoderModel", "T5", T5),
    words("UMT5EncoderModel", "T5", T5),
    words("IBertModel", "I-BERT", WORDS),
    words("LukeModel", "LUKE", WORDS, entity_vocab_size=10, entity_emb_size=16),
    words("LayoutLMModel", "LayoutLM", WORDS),
    words("MraModel", "MRA", WORDS),
    words("YosoModel", "YOSO", WORDS, use_expectation=True),
    *(
        words(
            name,
            "BART",
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            vocab_size=60,
            max_position_embeddings=64,
            pad_token_id=1,
        )
        for name in ("BartModel", "MBartModel")
    ),
    images("ViTModel", "ViT", 32, PATCHES),
    images("ViTForImageClassification", "ViT", 32, PATCHES),
    images("DeiTModel", "ViT", 32, PATCHES),
    images("ViTMSNModel", "ViT", 32, PATCHES),
    images("ViTMAEModel", "MAE", 32, PATCHES, mask_ratio=0.0),
    images("BeitModel", "BEiT", 32, PATCHES, use_relative_position_bias=True),
    images("Data2VecVisionModel", "BEiT", 32, PATCHES),
    images("Dinov2Model", "DINOv2", 32, PATCHES, mlp_ratio=2),
    images("Dinov2WithRegistersModel", "DINOv2", 32, PATCHES, mlp_ratio=2),
    images("DINOv3ViTModel", "DINOv3", 32, PATCHES),
    images("IJepaModel", "ViT", 32, PATCHES),
    images("CLIPVisionModel", "CLIP", 32, PATCHES),
    images("SiglipVisionModel", "SigLIP", 32, PATCHES),
    images("Aimv2VisionModel", "AIMv2", 32, PATCHES),
    images("HieraModel", "Hiera", 64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], image_size=[64, 64]),
    images("YolosModel", "YOLOS", 32, PATCHES, image_size=[32, 32], num_detection_tokens=5),
    images("SwinModel", "Swin", 64, WINDOWS),
    images("Swinv2Model", "Swin v2", 64, WINDOWS),
    images(
        "Swin2SRForImageSuperResolution",
        "Swin2SR",
        32,
        image_size=32,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=8,
    ),
    images("DonutSwinModel", "Swin", 64, WINDOWS),
    images("ResNetModel", "ResNet", 64, STAGES, embedding_size=16, layer_type="basic"),
    images("ResNetForImageClassification", "ResNet", 64, STAGES, embedding_size=16, layer_type="bottleneck"),
    images("RegNetModel", "RegNet", 64, STAGES, embedding_size=16, groups_width=8),
    images("BitModel", "BiT", 64, STAGES, embedding_size=16, num_groups=8),
    images("ConvNextModel", "ConvNeXt", 64, STAGES),
    images("ConvNextV2Model", "ConvNeXt v2", 64, STAGES),
    images("DINOv3ConvNextModel", "ConvNeXt", 64, STAGES),
    images("MobileNetV1Model", "MobileNet v1", 64, depth_multiplier=0.25),
    images("MobileNetV2Model", "MobileNet v2", 64, depth_multiplier=0.35),
    images(
        "MobileViTModel",
        "MobileViT",
        64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        image_size=64,
    ),
    images("MobileViTV2Model", "MobileViT v2", 64, width_multiplier=0.25, image_size=64),
    images("PoolFormerModel", "PoolFormer", 64, STAGES),
    images("SegformerModel", "SegFormer", 64, PYRAMID),
    images("SegformerForSemanticSegmentation", "SegFormer", 64, PYRAMID, decoder_hidden_size=16),
    images("GLPNModel", "GLPN", 64, PYRAMID),
    images("PvtModel", "PVT", 64, PYRAMID, image_size=64),
    images("PvtV2Model", "PVT v2", 64, PYRAMID, image_size=64),
    images(
        "LevitModel",
        "LeViT",
        64,
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    images("FocalNetModel", "FocalNet", 64, image_size=64, embed_dim=16, depths=[1, 1, 1, 1]),
    images("SwiftFormerModel", "SwiftFormer", 64, image_size=64, embed_dims=[16, 24, 32, 40], depths=[1, 1, 1, 1]),
    images("HGNetV2ForImageClassification", "HGNet", 64),
    images("TextNetModel", "TextNet", 64),
    images("PPLCNetForImageClassification", "PP-LCNet", 64, scale=0.25),
    images(
        "SuperPointForKeypointDetection",
        "SuperPoint",
        64,
        encoder_hidden_sizes=[8, 8, 16, 16],
        decoder_hidden_size=16,
        descriptor_decoder_dim=16,
    ),
    images(
        "VitDetModel",
        "ViTDet",
        64,
        ENCODER,
        image_size=64,
        patch_size=8,
        pretrain_image_size=64,
        window_size=4,
        window_block_indices=[0],
    ),
    words("ImageGPTModel", "ImageGPT", GPT, n_positions=64),
    speech("Wav2Vec2Model", "wav2vec 2.0"),
    speech("HubertModel", "HuBERT"),
    speech("WavLMModel", "WavLM"),
    speech("UniSpeechModel", "wav2vec 2.0"),
    speech("UniSpeechSatModel", "wav2vec 2.0"),
    speech("Data2VecAudioModel", "data2vec audio", num_conv_pos_embeddings=1, conv_pos_kernel_size=5),
    speech("SEWModel", "SEW", squeeze_factor=2),
    speech("SEWDModel", "SEW-D", squeeze_factor=2),
    speech("Wav2Vec2ConformerModel", "Conformer"),
    diffuser("AutoencoderKL", "VAE", (3, 32, 32), **AUTOENCODER),
    diffuser(
        "AutoencoderTiny",
        "TAESD",
        (3, 32, 32),
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ),
    diffuser("VQModel", "VQ-VAE", (3, 32, 32), **AUTOENCODER),
    diffuser(
        "UNet2DModel",
        "diffusion U-Net",
        (3, 32, 32),
        (),
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
    ),
    diffuser(
        "UNet2DConditionModel",
        "diffusion U-Net",
        (4, 16, 16),
        (),
        (7, 16),
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=4,
    ),
    diffuser(
        "SD3Transformer2DModel",
        "MMDiT",
        (4, 8, 8),
        (6, 16),
        (12,),
        (),
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=12,
        in_channels=4,
        pos_embed_max_size=16,
    ),
)
