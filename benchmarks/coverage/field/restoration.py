"""Models that give images for images: super-resolution, denoising, faces, and those of medicine in 2 and 3 dims."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.coverage.field.model import Model, image, made, signal

SWIN: Mapping[str, Any] = {
    "img_size": 16,
    "window_size": 4,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "upscale": 2,
    "upsampler": "pixelshuffle",
}
SPANDREL: tuple[tuple[str, str, str, int, Mapping[str, Any]], ...] = (
    ("SwinIR", "SwinIR", "SwinIR", 16, SWIN),
    ("Swin2SR", "Swin2SR", "Swin2SR", 16, SWIN),
    ("HAT", "HAT", "HAT", 16, {**SWIN, "overlap_ratio": 0.5, "compress_ratio": 3, "squeeze_factor": 6}),
    (
        "DAT",
        "DAT",
        "DAT",
        16,
        {"img_size": 16, "embed_dim": 48, "split_size": [4, 4], "depth": [2, 2], "num_heads": [2, 2], "upscale": 2},
    ),
    ("DRCT", "DRCT", "DRCT", 16, {**SWIN, "depths": [2], "num_heads": [2], "gc": 8}),
    (
        "GRL",
        "GRL",
        "GRL",
        16,
        {
            "img_size": 16,
            "window_size": 4,
            "stripe_size": [4, 4],
            "embed_dim": 24,
            "depths": [2],
            "num_heads_window": [2],
            "num_heads_stripe": [2],
            "upscale": 2,
            "anchor_window_down_factor": 2,
        },
    ),
    (
        "RGT",
        "RGT",
        "RGT",
        16,
        {"img_size": 16, "embed_dim": 48, "depth": [2, 2], "num_heads": [2, 2], "split_size": [4, 4], "upscale": 2},
    ),
    ("ATD", "ATD", "ATD", 16, {**SWIN, "num_tokens": 8, "reducted_dim": 4, "category_size": 16}),
    (
        "CRAFT",
        "CRAFT",
        "CRAFT",
        16,
        {
            "window_size": 8,
            "embed_dim": 48,
            "depths": [2],
            "num_heads": [2],
            "split_size_0": 4,
            "split_size_1": 8,
            "upscale": 2,
        },
    ),
    (
        "IPT",
        "IPT",
        "IPT",
        48,
        {"patch_size": 48, "n_feats": 16, "num_heads": 2, "num_layers": 1, "patch_dim": 3, "scale": [2]},
    ),
    ("OmniSR", "OmniSR", "OmniSR", 16, {"num_feat": 16, "block_num": 1, "res_num": 1, "window_size": 8, "up_scale": 2}),
    ("SRFormer", "SRFormer", "SRFormer", 16, SWIN),
    (
        "FDAT",
        "FDAT",
        "FDAT",
        16,
        {"embed_dim": 24, "num_groups": 1, "depth_per_group": 2, "num_heads": 2, "window_size": 4, "scale": 2},
    ),
    ("MoESR", "MoESR", "MoESR", 16, {"n_blocks": 1, "n_block": 1, "dim": 16, "scale": 2, "upsample_dim": 16}),
    ("MoSR", "MoSR", "MoSR", 16, {"n_block": 2, "dim": 16, "upscale": 2}),
    ("ESRGAN", "ESRGAN", "ESRGAN", 16, {"num_filters": 16, "num_blocks": 1, "scale": 2}),
    ("Compact", "Compact", "SRVGG", 16, {"num_feat": 16, "num_conv": 3, "upscale": 2}),
    (
        "DITN",
        "DITN",
        "DITN",
        16,
        {"dim": 16, "ITL_blocks": 1, "SAL_blocks": 1, "UFONE_blocks": 1, "upscale": 2, "patch_size": 8},
    ),
    ("DRUNet", "DRUNet", "DRUNet", 16, {"in_nc": 4, "out_nc": 3, "nc": [8, 8, 16, 16], "nb": 1}),
    ("DnCNN", "DnCNN", "DnCNN", 16, {"in_nc": 3, "out_nc": 3, "nc": 16, "nb": 4, "act_mode": "BR"}),
    ("FFTformer", "FFTformer", "FFTformer", 32, {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1}),
    (
        "GFPGAN",
        "GFPGAN",
        "GFPGAN",
        64,
        {"out_size": 64, "num_style_feat": 32, "channel_multiplier": 1, "narrow": 0.125},
    ),
    (
        "KBNet_s",
        "KBNet",
        "KBNet",
        16,
        {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    ),
    ("MixDehazeNet", "MixDehazeNet", "MixDehazeNet", 64, {"embed_dims": [8, 16, 24, 16, 8], "depths": [1, 1, 1, 1, 1]}),
    (
        "NAFNet",
        "NAFNet",
        "NAFNet",
        16,
        {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    ),
    ("PLKSR", "PLKSR", "PLKSR", 16, {"dim": 16, "n_blocks": 2, "upscaling_factor": 2, "kernel_size": 5}),
    (
        "RealPLKSR",
        "PLKSR",
        "PLKSR",
        16,
        {"dim": 16, "n_blocks": 2, "upscaling_factor": 2, "kernel_size": 5, "norm_groups": 4},
    ),
    ("RCAN", "RCAN", "RCAN", 16, {"n_resgroups": 1, "n_resblocks": 2, "n_feats": 16, "reduction": 4, "scale": 2}),
    ("UpCunet2x", "RealCUGAN", "RealCUGAN", 32, {}),
    (
        "RestoreFormer",
        "RestoreFormer",
        "RestoreFormer",
        64,
        {
            "n_embed": 16,
            "embed_dim": 32,
            "ch": 32,
            "ch_mult": (1, 2, 2),
            "num_res_blocks": 1,
            "resolution": 64,
            "z_channels": 32,
            "head_size": 4,
        },
    ),
    ("RetinexFormer", "RetinexFormer", "RetinexFormer", 16, {"n_feat": 8, "stage": 1, "num_blocks": [1, 1, 1]}),
    ("SAFMN", "SAFMN", "SAFMN", 16, {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    ("SAFMNBCIE", "SAFMNBCIE", "SAFMN", 16, {"dim": 16, "n_blocks": 1, "num_layers": 2}),
    ("SCUNet", "SCUNet", "SCUNet", 64, {"config": [1, 1, 1, 1, 1, 1, 1], "dim": 64}),
    ("SPAN", "SPAN", "SPAN", 16, {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 2}),
    ("SwiftSRGAN", "SwiftSRGAN", "SwiftSRGAN", 16, {"num_channels": 16, "num_blocks": 2, "upscale_factor": 2}),
    (
        "Uformer",
        "Uformer",
        "Uformer",
        128,
        {"img_size": 128, "embed_dim": 8, "depths": [1] * 9, "num_heads": [1] * 9, "win_size": 8},
    ),
    ("HVICIDNet", "HVICIDNet", "CIDNet", 32, {"channels": [8, 8, 16, 16], "heads": [1, 1, 2, 2]}),
    (
        "MMRealSR",
        "MMRealSR",
        "MM-RealSR",
        16,
        {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 1, "num_grow_ch": 8},
    ),
)
EXTRA: tuple[tuple[str, str, str, int, Mapping[str, Any]], ...] = (
    (
        "Restormer",
        "Restormer",
        "Restormer",
        16,
        {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 2]},
    ),
    ("MPRNet", "MPRNet", "MPRNet", 32, {"n_feat": 8, "scale_unetfeats": 4, "scale_orsnetfeats": 4, "num_cab": 1}),
    ("MIRNet2.__arch.mirnet_v2_arch", "MIRNet_v2", "MIRNet v2", 16, {"n_feat": 16, "n_MRB": 1}),
    (
        "M3SNet",
        "M3SNet",
        "M3SNet",
        32,
        {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 1], "dec_blk_nums": [1, 1, 1, 1]},
    ),
    ("SRFormer", "SRFormer", "SRFormer", 16, SWIN),
    ("CodeFormer", "CodeFormer", "CodeFormer", 512, {}),
)

TORCHSR: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("edsr_baseline", "EDSR", {}),
    ("carn_m", "CARN", {}),
    ("ninasr_b0", "NinaSR", {}),
    ("vdsr", "VDSR", {}),
    ("rdn_b", "RDN", {}),
)

MONAI: tuple[tuple[str, str, tuple[int, ...], Mapping[str, Any]], ...] = (
    (
        "UNet",
        "U-Net",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "channels": (8, 16, 32),
            "strides": (2, 2),
            "num_res_units": 2,
            "norm": "batch",
        },
    ),
    ("BasicUNet", "U-Net", (1, 32, 32, 32), {"spatial_dims": 3, "features": (8, 8, 16, 16, 32, 8)}),
    ("BasicUNetPlusPlus", "U-Net++", (1, 32, 32), {"spatial_dims": 2, "features": (8, 8, 16, 16, 32, 8)}),
    (
        "AttentionUnet",
        "Attention U-Net",
        (1, 32, 32),
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)},
    ),
    (
        "DynUNet",
        "nnU-Net",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [8, 16, 32],
        },
    ),
    (
        "SegResNet",
        "SegResNet",
        (1, 32, 32),
        {"spatial_dims": 2, "init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
    ),
    ("SegResNetDS", "SegResNet", (1, 32, 32), {"spatial_dims": 2, "init_filters": 8, "blocks_down": (1, 1)}),
    ("VNet", "V-Net", (1, 32, 32, 32), {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}),
    ("HighResNet", "HighResNet", (1, 32, 32), {"spatial_dims": 2}),
    (
        "UNETR",
        "UNETR",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "img_size": 32,
            "feature_size": 8,
            "hidden_size": 24,
            "mlp_dim": 48,
            "num_heads": 2,
        },
    ),
    (
        "SwinUNETR",
        "SwinUNETR",
        (1, 64, 64),
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "feature_size": 12, "depths": (1, 1, 1, 1)},
    ),
    (
        "ViT",
        "ViT",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 8,
            "hidden_size": 24,
            "mlp_dim": 48,
            "num_layers": 2,
            "num_heads": 2,
            "classification": True,
        },
    ),
    (
        "ViTAutoEnc",
        "ViT",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 8,
            "hidden_size": 24,
            "mlp_dim": 48,
            "num_layers": 2,
            "num_heads": 2,
        },
    ),
    ("DenseNet121", "DenseNet", (1, 32, 32), {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}),
    (
        "EfficientNetBN",
        "EfficientNet",
        (1, 64, 64),
        {"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 1, "num_classes": 2, "pretrained": False},
    ),
    ("SEResNet50", "SENet", (1, 64, 64), {"spatial_dims": 2, "in_channels": 1, "num_classes": 2}),
    ("resnet10", "ResNet", (1, 32, 32, 32), {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 2}),
    (
        "FlexibleUNet",
        "U-Net",
        (3, 64, 64),
        {"in_channels": 3, "out_channels": 2, "backbone": "resnet18", "spatial_dims": 2},
    ),
    (
        "AutoEncoder",
        "autoencoder",
        (1, 32, 32),
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": (8, 16), "strides": (2, 2)},
    ),
    ("Classifier", "CNN", (1, 32, 32), {"in_shape": (1, 32, 32), "classes": 2, "channels": (8, 16), "strides": (2, 2)}),
    ("Quicknat", "QuickNAT", (1, 32, 32), {"num_classes": 2, "num_channels": 1, "num_filters": 16}),
    ("AHNet", "AHNet", (1, 64, 64), {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "psp_block_num": 0}),
    (
        "LocalNet",
        "LocalNet",
        (1, 32, 32),
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "num_channel_initial": 8, "extract_levels": [0, 1]},
    ),
    ("RegUNet", "RegUNet", (1, 32, 32), {"spatial_dims": 2, "in_channels": 1, "num_channel_initial": 8, "depth": 2}),
    ("MedNeXtSmall", "MedNeXt", (1, 32, 32), {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}),
    (
        "Restormer",
        "Restormer",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "dim": 8,
            "num_blocks": (1, 1, 1),
            "heads": (1, 1, 2),
            "num_refinement_blocks": 1,
            "num_channels": None,
        },
    ),
    (
        "PatchDiscriminator",
        "PatchGAN",
        (1, 32, 32),
        {"spatial_dims": 2, "channels": 8, "in_channels": 1, "num_layers_d": 2},
    ),
    (
        "AutoencoderKL",
        "VAE",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "channels": (8, 16),
            "norm_num_groups": 8,
            "attention_levels": (False, False),
            "num_res_blocks": 1,
            "latent_channels": 4,
        },
    ),
    (
        "VQVAE",
        "VQ-VAE",
        (1, 32, 32),
        {
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (8, 16),
            "num_res_channels": (8, 16),
            "num_res_layers": 1,
            "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
            "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
            "num_embeddings": 16,
            "embedding_dim": 8,
        },
    ),
    ("HoverNet", "HoVer-Net", (3, 256, 256), {"mode": "fast", "in_channels": 3}),
    ("DiNTS", "DiNTS", (1, 32, 32), {}),
)
SPANDREL_SKIPPED = {"SRFormer"}


def models() -> Iterator[Model]:
    """All models of this file."""
    for name, folder, family, side, options in SPANDREL:
        if name not in SPANDREL_SKIPPED:
            yield image(
                "spandrel",
                name,
                family,
                made(f"spandrel.architectures.{folder}:{name}", **options),
                side,
                _planes(name),
            )
    for folder, name, family, side, options in EXTRA:
        build = made(f"spandrel_extra_arches.architectures.{folder}:{name}", **options)
        yield image("spandrel_extra_arches", name, family, build, side)
    for name, family, options in TORCHSR:
        yield image("torchsr", name, family, made(f"torchsr.models:{name}", scale=2, pretrained=False, **options), 16)
    for name, family, shape, options in MONAI:
        yield signal("monai", name, family, made(f"monai.networks.nets:{name}", **options), *shape)


def _planes(name: str) -> int:
    return {"LaMa": 4, "DRUNet": 4}.get(name, 3)
