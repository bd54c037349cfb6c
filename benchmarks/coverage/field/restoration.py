"""Models that give images for images: super-resolution, denoising, faces, and those of medicine in 2 and 3 dims."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.coverage.model import NOTHING, Model, Real, image, made, signal

SWIN: Mapping[str, Any] = {
    "img_size": 16,
    "window_size": 4,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "upscale": 2,
    "upsampler": "pixelshuffle",
}
PLANE: Mapping[str, Any] = {"spatial_dims": 2, "in_channels": 1}
MASK: Mapping[str, Any] = {**PLANE, "out_channels": 2}
VIT: Mapping[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "mlp_dim": 48,
    "num_layers": 2,
    "num_heads": 2,
}
NAF: Mapping[str, Any] = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}


def restored(
    name: str,
    side: int,
    base: Mapping[str, Any] = NOTHING,
    /,
    *,
    of: str = "",
    family: str = "",
    planes: int = 3,
    **options: Any,
) -> Model:
    """A model of spandrel. of: its folder, where it has another name; family: where that is not the folder."""
    build = made(f"spandrel.architectures.{of or name}:{name}", **{**base, **options})
    return image("spandrel", name, family or of or name, build, side, planes)


def extra(
    name: str, side: int, base: Mapping[str, Any] = NOTHING, /, *, of: str = "", family: str = "", **options: Any
) -> Model:
    """A model of spandrel's second package."""
    build = made(f"spandrel_extra_arches.architectures.{of or name}:{name}", **{**base, **options})
    return image("spandrel_extra_arches", name, family or name, build, side)


def large(model: Model, side: int, gibibytes: float = 0) -> Model:
    """The model of images of side x side pixels and no others, with one image, so as to fit, and then two."""
    first, second = (Real((batch, 3, side, side)) for batch in (1, 2))
    return replace(model, inputs=(first,), others=(second,), gibibytes=gibibytes)


def enlarged(name: str, family: str) -> Model:
    """A model of torchsr."""
    return image("torchsr", name, family, made(f"torchsr.models:{name}", scale=2, pretrained=False), 16)


def medical(
    name: str, family: str, shape: tuple[int, ...], base: Mapping[str, Any] = NOTHING, /, **options: Any
) -> Model:
    """A model of monai. shape: of one example."""
    return signal("monai", name, family, made(f"monai.networks.nets:{name}", **{**base, **options}), *shape)


MODELS = (
    restored("SwinIR", 16, SWIN),
    restored("Swin2SR", 16, SWIN),
    restored("HAT", 16, SWIN, overlap_ratio=0.5, compress_ratio=3, squeeze_factor=6),
    restored("DAT", 16, img_size=16, embed_dim=48, split_size=[4, 4], depth=[2, 2], num_heads=[2, 2], upscale=2),
    restored("DRCT", 16, SWIN, depths=[2], num_heads=[2], gc=8),
    restored(
        "GRL",
        16,
        img_size=16,
        window_size=4,
        stripe_size=[4, 4],
        embed_dim=24,
        depths=[2],
        num_heads_window=[2],
        num_heads_stripe=[2],
        upscale=2,
        anchor_window_down_factor=2,
    ),
    restored("RGT", 16, img_size=16, embed_dim=48, depth=[2, 2], num_heads=[2, 2], split_size=[4, 4], upscale=2),
    restored("ATD", 16, SWIN, num_tokens=8, reducted_dim=4, category_size=16),
    restored(
        "CRAFT", 16, window_size=8, embed_dim=48, depths=[2], num_heads=[2], split_size_0=4, split_size_1=8, upscale=2
    ),
    restored("IPT", 48, patch_size=48, n_feats=16, num_heads=2, num_layers=1, patch_dim=3, scale=[2]),
    restored("OmniSR", 16, num_feat=16, block_num=1, res_num=1, window_size=8, up_scale=2),
    restored("FDAT", 16, embed_dim=24, num_groups=1, depth_per_group=2, num_heads=2, window_size=4, scale=2),
    restored("MoESR", 16, n_blocks=1, n_block=1, dim=16, scale=2, upsample_dim=16),
    restored("MoSR", 16, n_block=2, dim=16, upscale=2),
    restored("ESRGAN", 16, num_filters=16, num_blocks=1, scale=2),
    restored("Compact", 16, num_feat=16, num_conv=3, upscale=2, family="SRVGG"),
    restored("DITN", 16, dim=16, ITL_blocks=1, SAL_blocks=1, UFONE_blocks=1, upscale=2, patch_size=8),
    restored("DRUNet", 16, in_nc=4, out_nc=3, nc=[8, 8, 16, 16], nb=1, planes=4),
    restored("DnCNN", 16, in_nc=3, out_nc=3, nc=16, nb=4, act_mode="BR"),
    restored("FFTformer", 32, dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1),
    restored("GFPGAN", 64, out_size=64, num_style_feat=32, channel_multiplier=1, narrow=0.125),
    restored("KBNet_s", 16, NAF, of="KBNet"),
    restored("MixDehazeNet", 64, embed_dims=[8, 16, 24, 16, 8], depths=[1] * 5),
    restored("NAFNet", 16, NAF),
    restored("PLKSR", 16, dim=16, n_blocks=2, upscaling_factor=2, kernel_size=5),
    restored("RealPLKSR", 16, dim=16, n_blocks=2, upscaling_factor=2, kernel_size=5, norm_groups=4, of="PLKSR"),
    restored("RCAN", 16, n_resgroups=1, n_resblocks=2, n_feats=16, reduction=4, scale=2),
    restored("UpCunet2x", 32, of="RealCUGAN"),
    restored(
        "RestoreFormer",
        64,
        n_embed=16,
        embed_dim=32,
        ch=32,
        ch_mult=(1, 2, 2),
        num_res_blocks=1,
        resolution=64,
        z_channels=32,
        head_size=4,
    ),
    restored("RetinexFormer", 16, n_feat=8, stage=1, num_blocks=[1, 1, 1]),
    restored("SAFMN", 16, dim=16, n_blocks=2, upscaling_factor=2),
    restored("SAFMNBCIE", 16, dim=16, n_blocks=1, num_layers=2, family="SAFMN"),
    restored("SCUNet", 64, config=[1] * 7, dim=64),
    restored("SPAN", 16, num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
    restored("SwiftSRGAN", 16, num_channels=16, num_blocks=2, upscale_factor=2),
    restored("Uformer", 128, img_size=128, embed_dim=8, depths=[1] * 9, num_heads=[1] * 9, win_size=8),
    restored("HVICIDNet", 32, channels=[8, 8, 16, 16], heads=[1, 1, 2, 2], family="CIDNet"),
    restored("MMRealSR", 16, num_in_ch=3, num_out_ch=3, num_feat=16, num_block=1, num_grow_ch=8, family="MM-RealSR"),
    extra("Restormer", 16, dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, heads=[1, 1, 2, 2]),
    extra("MPRNet", 32, n_feat=8, scale_unetfeats=4, scale_orsnetfeats=4, num_cab=1),
    extra("MIRNet_v2", 16, n_feat=16, n_MRB=1, of="MIRNet2.__arch.mirnet_v2_arch", family="MIRNet v2"),
    extra("M3SNet", 32, width=8, middle_blk_num=1, enc_blk_nums=[1, 1, 1, 1], dec_blk_nums=[1, 1, 1, 1]),
    extra("SRFormer", 16, SWIN),
    large(extra("CodeFormer", 512), 512, gibibytes=12),
    enlarged("edsr_baseline", "EDSR"),
    enlarged("carn_m", "CARN"),
    enlarged("ninasr_b0", "NinaSR"),
    enlarged("vdsr", "VDSR"),
    enlarged("rdn_b", "RDN"),
    medical("UNet", "U-Net", (1, 32, 32), MASK, channels=(8, 16, 32), strides=(2, 2), num_res_units=2, norm="batch"),
    medical("BasicUNet", "U-Net", (1, 32, 32, 32), spatial_dims=3, features=(8, 8, 16, 16, 32, 8)),
    medical("BasicUNetPlusPlus", "U-Net++", (1, 32, 32), spatial_dims=2, features=(8, 8, 16, 16, 32, 8)),
    medical("AttentionUnet", "Attention U-Net", (1, 32, 32), MASK, channels=(8, 16, 32), strides=(2, 2)),
    medical(
        "DynUNet",
        "nnU-Net",
        (1, 32, 32),
        MASK,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[8, 16, 32],
    ),
    medical("SegResNet", "SegResNet", (1, 32, 32), spatial_dims=2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
    medical("SegResNetDS", "SegResNet", (1, 32, 32), spatial_dims=2, init_filters=8, blocks_down=(1, 1)),
    medical("VNet", "V-Net", (1, 16, 16, 32), spatial_dims=3, in_channels=1, out_channels=2),
    medical("HighResNet", "HighResNet", (1, 32, 32), spatial_dims=2),
    medical("UNETR", "UNETR", (1, 32, 32), MASK, img_size=32, feature_size=8, hidden_size=24, mlp_dim=48, num_heads=2),
    medical("SwinUNETR", "SwinUNETR", (1, 64, 64), MASK, feature_size=12, depths=(1, 1, 1, 1)),
    medical("ViT", "ViT", (1, 32, 32), PLANE, **VIT, classification=True),
    medical("ViTAutoEnc", "ViT", (1, 32, 32), PLANE, **{**VIT, "patch_size": 4}),
    medical("DenseNet121", "DenseNet", (1, 32, 32), MASK),
    medical(
        "EfficientNetBN",
        "EfficientNet",
        (1, 64, 64),
        PLANE,
        model_name="efficientnet-b0",
        num_classes=2,
        pretrained=False,
    ),
    medical("SEResNet50", "SENet", (1, 64, 64), PLANE, num_classes=2),
    medical("resnet10", "ResNet", (1, 32, 32, 32), spatial_dims=3, n_input_channels=1, num_classes=2),
    medical("FlexibleUNet", "U-Net", (3, 64, 64), in_channels=3, out_channels=2, backbone="resnet18", spatial_dims=2),
    medical("AutoEncoder", "autoencoder", (1, 32, 32), PLANE, out_channels=1, channels=(8, 16), strides=(2, 2)),
    medical("Classifier", "CNN", (1, 32, 32), in_shape=(1, 32, 32), classes=2, channels=(8, 16), strides=(2, 2)),
    medical("Quicknat", "QuickNAT", (1, 32, 32), num_classes=2, num_channels=1, num_filters=16),
    medical("AHNet", "AHNet", (1, 64, 64), MASK, psp_block_num=0),
    medical("LocalNet", "LocalNet", (1, 32, 32), MASK, num_channel_initial=8, extract_levels=[0, 1]),
    medical("RegUNet", "RegUNet", (1, 32, 32), PLANE, num_channel_initial=8, depth=2),
    medical("MedNeXtSmall", "MedNeXt", (1, 32, 32), MASK),
    medical("PatchDiscriminator", "PatchGAN", (1, 32, 32), spatial_dims=2, channels=8, in_channels=1, num_layers_d=2),
    medical(
        "AutoencoderKL",
        "VAE",
        (1, 32, 32),
        spatial_dims=2,
        channels=(8, 16),
        norm_num_groups=8,
        attention_levels=(False, False),
        num_res_blocks=1,
        latent_channels=4,
    ),
    medical(
        "VQVAE",
        "VQ-VAE",
        (1, 32, 32),
        PLANE,
        out_channels=1,
        channels=(8, 16),
        num_res_channels=(8, 16),
        num_res_layers=1,
        downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
        upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        num_embeddings=16,
        embedding_dim=8,
    ),
    large(medical("HoverNet", "HoVer-Net", (3, 256, 256), mode="fast", in_channels=3), 256),
)
