"""Models of transformers and diffusers, built from small configs."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.coverage.field.model import Model, Real, image, made, signal, text

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


@dataclass(frozen=True)
class FromConfig:
    """A model of transformers with a config of these options; as in training, it keeps no keys for the next word."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> nn.Module:
        transformers = importlib.import_module("transformers")
        kind = getattr(transformers, self.name)
        config = kind.config_class(**self.options)
        config.use_cache = False
        model: nn.Module = kind(config)
        return model


TEXTS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("BertModel", "BERT", WORDS),
    ("BertForSequenceClassification", "BERT", WORDS),
    ("RobertaModel", "BERT", WORDS),
    ("XLMRobertaModel", "BERT", WORDS),
    ("CamembertModel", "BERT", WORDS),
    ("MegatronBertModel", "BERT", WORDS),
    ("RobertaPreLayerNormModel", "BERT", WORDS),
    ("ErnieModel", "BERT", WORDS),
    ("DistilBertModel", "DistilBERT", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 60}),
    ("AlbertModel", "ALBERT", {**WORDS, "embedding_size": 16}),
    ("ElectraModel", "ELECTRA", {**WORDS, "embedding_size": 16}),
    ("MPNetModel", "MPNet", WORDS),
    ("RemBertModel", "RemBERT", {**WORDS, "input_embedding_size": 16}),
    ("ConvBertModel", "ConvBERT", {**WORDS, "embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3}),
    ("SqueezeBertModel", "SqueezeBERT", {**WORDS, "embedding_size": 32}),
    ("MobileBertModel", "MobileBERT", {**WORDS, "embedding_size": 32, "intra_bottleneck_size": 32}),
    ("FNetModel", "FNet", WORDS),
    ("NystromformerModel", "Nystromformer", {**WORDS, "segment_means_seq_len": 64, "num_landmarks": 64}),
    ("RoFormerModel", "RoFormer", WORDS),
    ("DebertaModel", "DeBERTa", {**WORDS, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    ("DebertaV2Model", "DeBERTa", {**WORDS, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    ("ModernBertModel", "ModernBERT", {**WORDS, "attn_implementation": "sdpa"}),
    ("EsmModel", "ESM", {**WORDS, "mask_token_id": 4}),
    ("XmodModel", "X-MOD", {**WORDS, "languages": ["en"], "default_language": "en"}),
    ("SplinterModel", "BERT", WORDS),
    ("CanineModel", "CANINE", {**WORDS, "num_hash_buckets": 64, "local_transformer_stride": 8}),
    ("BigBirdModel", "BigBird", {**WORDS, "attention_type": "original_full"}),
    ("FunnelBaseModel", "Funnel", {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}),
    ("GPT2Model", "GPT-2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    ("GPT2LMHeadModel", "GPT-2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    ("OpenAIGPTModel", "GPT", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    (
        "GPTNeoModel",
        "GPT-Neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "attention_types": [[["global", "local"], 1]],
            "num_heads": 4,
            "vocab_size": 60,
        },
    ),
    ("GPTNeoXModel", "GPT-NeoX", WORDS),
    ("GPTJModel", "GPT-J", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "vocab_size": 60}),
    ("CodeGenModel", "CodeGen", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "vocab_size": 60}),
    ("GPTBigCodeModel", "GPT-BigCode", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    ("OPTModel", "OPT", {**WORDS, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    ("BloomModel", "BLOOM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    ("MptModel", "MPT", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 60, "max_seq_len": 64}),
    ("FalconModel", "Falcon", {**WORDS, "alibi": False}),
    ("LlamaModel", "Llama", GROUPED),
    ("LlamaForCausalLM", "Llama", GROUPED),
    ("MistralModel", "Llama", GROUPED),
    ("Qwen2Model", "Qwen", GROUPED),
    ("Qwen3Model", "Qwen", GROUPED),
    ("GemmaModel", "Gemma", GROUPED),
    ("Gemma2Model", "Gemma", GROUPED),
    ("PhiModel", "Phi", GROUPED),
    ("Phi3Model", "Phi", GROUPED),
    ("CohereModel", "Cohere", GROUPED),
    ("GraniteModel", "Granite", GROUPED),
    ("OlmoModel", "OLMo", GROUPED),
    ("Olmo2Model", "OLMo", GROUPED),
    ("StableLmModel", "StableLM", GROUPED),
    ("Starcoder2Model", "StarCoder2", GROUPED),
    ("GlmModel", "GLM", GROUPED),
    ("HeliumModel", "Llama", GROUPED),
    ("SmolLM3Model", "Llama", GROUPED),
    ("NemotronModel", "Nemotron", GROUPED),
    ("PersimmonModel", "Persimmon", WORDS),
    ("MixtralModel", "Mixtral", {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1}),
    ("MambaModel", "Mamba", {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 60}),
    ("RwkvModel", "RWKV", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60, "context_length": 64}),
    ("XGLMModel", "XGLM", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "vocab_size": 60}),
    ("BioGptModel", "BioGPT", WORDS),
    ("CTRLModel", "CTRL", {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64, "vocab_size": 60}),
    ("XLNetModel", "XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 60}),
    ("FlaubertModel", "XLM", {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 60}),
    ("XLMModel", "XLM", {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 60}),
    ("T5EncoderModel", "T5", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 60}),
    (
        "UMT5EncoderModel",
        "T5",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 60},
    ),
    ("IBertModel", "I-BERT", WORDS),
    ("LukeModel", "LUKE", {**WORDS, "entity_vocab_size": 10, "entity_emb_size": 16}),
    ("LayoutLMModel", "LayoutLM", WORDS),
    ("MraModel", "MRA", WORDS),
    ("YosoModel", "YOSO", {**WORDS, "use_expectation": True}),
)
PAIRED = (
    ("BartModel", "BART"),
    ("MBartModel", "BART"),
)
LAYERED: Mapping[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 60,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
STAGES: Mapping[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
VISIONS: tuple[tuple[str, str, int, Mapping[str, Any]], ...] = (
    ("ViTModel", "ViT", 32, PATCHES),
    ("ViTForImageClassification", "ViT", 32, PATCHES),
    ("DeiTModel", "ViT", 32, PATCHES),
    ("ViTMSNModel", "ViT", 32, PATCHES),
    ("ViTMAEModel", "MAE", 32, {**PATCHES, "mask_ratio": 0.0}),
    ("BeitModel", "BEiT", 32, {**PATCHES, "use_relative_position_bias": True}),
    ("Data2VecVisionModel", "BEiT", 32, PATCHES),
    ("Dinov2Model", "DINOv2", 32, {**PATCHES, "mlp_ratio": 2}),
    ("Dinov2WithRegistersModel", "DINOv2", 32, {**PATCHES, "mlp_ratio": 2}),
    ("DINOv3ViTModel", "DINOv3", 32, PATCHES),
    ("IJepaModel", "ViT", 32, PATCHES),
    ("CLIPVisionModel", "CLIP", 32, PATCHES),
    ("SiglipVisionModel", "SigLIP", 32, PATCHES),
    ("Aimv2VisionModel", "AIMv2", 32, PATCHES),
    (
        "HieraModel",
        "Hiera",
        64,
        {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "image_size": [64, 64]},
    ),
    ("YolosModel", "YOLOS", 32, {**PATCHES, "image_size": [32, 32], "num_detection_tokens": 5}),
    (
        "SwinModel",
        "Swin",
        64,
        {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    (
        "Swinv2Model",
        "Swin v2",
        64,
        {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    (
        "Swin2SRForImageSuperResolution",
        "Swin2SR",
        32,
        {"image_size": 32, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8},
    ),
    (
        "DonutSwinModel",
        "Swin",
        64,
        {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    ("ResNetModel", "ResNet", 64, {**STAGES, "layer_type": "basic"}),
    ("ResNetForImageClassification", "ResNet", 64, {**STAGES, "layer_type": "bottleneck"}),
    ("RegNetModel", "RegNet", 64, {**STAGES, "groups_width": 8}),
    ("BitModel", "BiT", 64, {**STAGES, "num_groups": 8}),
    ("ConvNextModel", "ConvNeXt", 64, {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}),
    ("ConvNextV2Model", "ConvNeXt v2", 64, {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}),
    ("DINOv3ConvNextModel", "ConvNeXt", 64, {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}),
    ("MobileNetV1Model", "MobileNet v1", 64, {"depth_multiplier": 0.25}),
    ("MobileNetV2Model", "MobileNet v2", 64, {"depth_multiplier": 0.35}),
    (
        "MobileViTModel",
        "MobileViT",
        64,
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "image_size": 64},
    ),
    ("MobileViTV2Model", "MobileViT v2", 64, {"width_multiplier": 0.25, "image_size": 64}),
    ("PoolFormerModel", "PoolFormer", 64, {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 40]}),
    (
        "SegformerModel",
        "SegFormer",
        64,
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4]},
    ),
    (
        "SegformerForSemanticSegmentation",
        "SegFormer",
        64,
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 16,
        },
    ),
    (
        "GLPNModel",
        "GLPN",
        64,
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4]},
    ),
    (
        "PvtModel",
        "PVT",
        64,
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 2, 4],
            "image_size": 64,
        },
    ),
    (
        "PvtV2Model",
        "PVT v2",
        64,
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 2, 4],
            "image_size": 64,
        },
    ),
    (
        "LevitModel",
        "LeViT",
        64,
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    ("FocalNetModel", "FocalNet", 64, {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1]}),
    ("SwiftFormerModel", "SwiftFormer", 64, {"image_size": 64, "embed_dims": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}),
    ("HGNetV2ForImageClassification", "HGNet", 64, {}),
    ("TextNetModel", "TextNet", 64, {}),
    ("PPLCNetForImageClassification", "PP-LCNet", 64, {"scale": 0.25}),
    (
        "SuperPointForKeypointDetection",
        "SuperPoint",
        64,
        {"encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16, "descriptor_decoder_dim": 16},
    ),
    (
        "VitDetModel",
        "ViTDet",
        64,
        {
            **ENCODER,
            "image_size": 64,
            "patch_size": 8,
            "pretrain_image_size": 64,
            "window_size": 4,
            "window_block_indices": [0],
        },
    ),
    ("ImageGPTModel", "ImageGPT", 0, {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 64}),
)
SOUNDS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("Wav2Vec2Model", "wav2vec 2.0", SPEECH),
    ("HubertModel", "HuBERT", SPEECH),
    ("WavLMModel", "WavLM", SPEECH),
    ("UniSpeechModel", "wav2vec 2.0", SPEECH),
    ("UniSpeechSatModel", "wav2vec 2.0", SPEECH),
    ("Data2VecAudioModel", "data2vec audio", {**SPEECH, "num_conv_pos_embeddings": 1, "conv_pos_kernel_size": 5}),
    ("SEWModel", "SEW", {**SPEECH, "squeeze_factor": 2}),
    ("SEWDModel", "SEW-D", {**SPEECH, "squeeze_factor": 2}),
    ("Wav2Vec2ConformerModel", "Conformer", SPEECH),
)
DIFFUSERS: tuple[tuple[str, str, tuple[tuple[int, ...], ...], Mapping[str, Any]], ...] = (
    (
        "AutoencoderKL",
        "VAE",
        ((3, 32, 32),),
        {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 8,
        },
    ),
    (
        "AutoencoderTiny",
        "TAESD",
        ((3, 32, 32),),
        {
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
    ),
    (
        "VQModel",
        "VQ-VAE",
        ((3, 32, 32),),
        {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 8,
        },
    ),
    (
        "UNet2DModel",
        "diffusion U-Net",
        ((3, 32, 32), ()),
        {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 8,
            "attention_head_dim": 8,
        },
    ),
    (
        "UNet2DConditionModel",
        "diffusion U-Net",
        ((4, 16, 16), (), (7, 16)),
        {
            "block_out_channels": (16, 32),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "norm_num_groups": 8,
            "cross_attention_dim": 16,
            "attention_head_dim": 4,
        },
    ),
    (
        "SD3Transformer2DModel",
        "MMDiT",
        ((4, 8, 8), (6, 16), (12,), ()),
        {
            "sample_size": 8,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 12,
            "in_channels": 4,
            "pos_embed_max_size": 16,
        },
    ),
)


def models() -> Iterator[Model]:
    """The models of transformers, then those of diffusers."""
    for name, family, options in TEXTS:
        yield text("transformers", name, family, FromConfig(name, options))
    for name, family in PAIRED:
        yield text("transformers", name, family, FromConfig(name, LAYERED), inputs=1)
    for name, family, side, options in VISIONS:
        config = FromConfig(name, options)
        yield image("transformers", name, family, config, side) if side else text("transformers", name, family, config)
    for name, family, options in SOUNDS:
        yield signal("transformers", name, family, FromConfig(name, options), 800)
    for name, family, shapes, options in DIFFUSERS:
        first = tuple(Real((2, *shape)) for shape in shapes)
        build = made(f"diffusers:{name}", **options)
        yield Model("diffusers", name, family, build, first, tuple(Real((3, *shape)) for shape in shapes))
