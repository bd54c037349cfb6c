"""Models for images that are built from a few numbers: vision transformers of many kinds, descriptors, CLIP."""

from collections.abc import Mapping
from typing import Any

from benchmarks.coverage.model import NOTHING, Ids, Model, Real, image, made

VIT: Mapping[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 48,
}
CLIP: Mapping[str, Any] = {
    "embed_dim": 16,
    "text_cfg": {"context_length": 16, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2},
}
EYE: Mapping[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}


def vit(name: str, family: str, side: int, base: Mapping[str, Any] = NOTHING, /, **options: Any) -> Model:
    """A model of vit_pytorch, which is "module:class" there."""
    return image(
        "vit_pytorch",
        name.replace(":", "."),
        family,
        made(f"vit_pytorch.{name}", num_classes=5, **{**base, **options}),
        side,
    )


def kornia(name: str, family: str, side: int, planes: int = 3, /, **options: Any) -> Model:
    """A model of kornia, which is "module:class" there."""
    return image("kornia", name.split(":")[1], family, made(f"kornia.{name}", **options), side, planes)


def single(
    package: str, name: str, family: str, side: int, planes: int = 3, /, *, of: str = "", **options: Any
) -> Model:
    """The model of a package that has no other. of: its module, where that is not the package."""
    return image(package, name, family, made(f"{of or package}:{name}", **options), side, planes)


def clip(name: str, **eye: Any) -> Model:
    """A model of open_clip, for images and their captions."""
    build = made("open_clip:CLIP", **CLIP, vision_cfg={**EYE, **eye})
    first, second = ((Real((batch, 3, 32, 32)), Ids((batch, 16))) for batch in (2, 3))
    return Model("open_clip", name, "CLIP", build, first, second)


PERCEIVER = Model(
    "perceiver_pytorch",
    "Perceiver",
    "Perceiver",
    made(
        "perceiver_pytorch:Perceiver",
        num_freq_bands=2,
        depth=2,
        max_freq=4.0,
        num_latents=8,
        latent_dim=32,
        latent_heads=2,
        latent_dim_head=8,
        cross_dim_head=8,
        num_classes=5,
    ),
    (Real((2, 8, 8, 3)),),
    (Real((3, 8, 12, 3)),),
)
MODELS = (
    vit("vit:ViT", "ViT", 32, VIT),
    vit("simple_vit:SimpleViT", "ViT", 32, VIT),
    vit("simple_vit_with_register_tokens:SimpleViT", "ViT", 32, VIT),
    vit("simple_vit_with_qk_norm:SimpleViT", "ViT", 32, VIT),
    vit("deepvit:DeepViT", "DeepViT", 32, VIT),
    vit("cait:CaiT", "CaiT", 32, VIT, cls_depth=1),
    vit("parallel_vit:ViT", "Parallel ViT", 32, VIT),
    vit("vit_for_small_dataset:ViT", "SL-ViT", 32, VIT),
    vit("rvt:RvT", "RvT", 32, VIT),
    vit("learnable_memory_vit:ViT", "ViT", 32, VIT),
    vit("cvt:CvT", "CvT", 64, s1_emb_dim=16, s2_emb_dim=16, s3_emb_dim=16, s3_depth=1),
    vit(
        "cct:CCT",
        "CCT",
        32,
        img_size=(32, 32),
        num_layers=2,
        num_heads=2,
        embedding_dim=32,
        positional_embedding="learnable",
    ),
    vit("crossformer:CrossFormer", "CrossFormer", 224, dim=(32, 32, 64, 64), depth=(1, 1, 1, 1)),
    vit(
        "levit:LeViT",
        "LeViT",
        32,
        image_size=32,
        stages=2,
        dim=(32, 48),
        depth=1,
        heads=(2, 2),
        mlp_mult=2,
        dim_key=16,
        dim_value=16,
    ),
    vit("max_vit:MaxViT", "MaxViT", 56, dim_conv_stem=16, dim=16, dim_head=8, depth=(1,), window_size=7, dropout=0.0),
    vit(
        "mobile_vit:MobileViT",
        "MobileViT",
        64,
        image_size=(64, 64),
        dims=[16, 24, 32],
        channels=[8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32],
    ),
    vit("nest:NesT", "NesT", 32, image_size=32, patch_size=4, dim=16, heads=2, num_hierarchies=2, block_repeats=(1, 1)),
    vit("pit:PiT", "PiT", 32, VIT, depth=(1, 1), patch_size=4),
    vit("regionvit:RegionViT", "RegionViT", 224, dim=(16, 16, 32, 32), depth=(1, 1, 1, 1)),
    vit(
        "scalable_vit:ScalableViT",
        "ScalableViT",
        64,
        dim=16,
        heads=(1, 2),
        depth=(1, 1),
        ssa_dim_key=(8, 8),
        reduction_factor=(2, 1),
        window_size=(8, 4),
    ),
    vit("sep_vit:SepViT", "SepViT", 56, dim=16, dim_head=8, heads=(1, 2), depth=(1, 1), window_size=7),
    vit("t2t:T2TViT", "T2T-ViT", 32, image_size=32, dim=32, depth=1, heads=2, mlp_dim=48),
    vit("xcit:XCiT", "XCiT", 32, VIT, cls_depth=1),
    vit("vit_with_patch_merger:ViT", "Patch Merger", 32, VIT, patch_merge_layer=1, patch_merge_num_tokens=4),
    vit(
        "cross_vit:CrossViT",
        "CrossViT",
        32,
        image_size=32,
        depth=1,
        sm_dim=16,
        lg_dim=24,
        sm_patch_size=4,
        lg_patch_size=8,
    ),
    vit("jumbo_vit:JumboViT", "Jumbo ViT", 32, VIT, num_jumbo_cls=1, jumbo_cls_k=2),
    vit("normalized_vit:nViT", "nViT", 32, VIT),
    kornia("feature:HardNet", "HardNet descriptor", 32, 1, pretrained=False),
    kornia("feature:HyNet", "HyNet", 32, 1, pretrained=False),
    kornia("feature:SOSNet", "SOSNet", 32, 1, pretrained=False),
    kornia("feature:TFeat", "TFeat", 32, 1, pretrained=False),
    kornia("feature:KeyNet", "Key.Net", 64, 1, pretrained=False),
    kornia("feature:DISK", "DISK", 64),
    kornia("feature.xfeat:XFeatModel", "XFeat", 64),
    kornia("models.dexined:DexiNed", "DexiNed", 64, pretrained=False),
    kornia("models.vit:VisionTransformer", "ViT", 32, image_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2),
    kornia("models.vit_mobile:MobileViT", "MobileViT", 256, mode="xxs"),
    kornia(
        "models.tiny_vit:TinyViT",
        "TinyViT",
        64,
        img_size=64,
        num_classes=5,
        embed_dims=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_sizes=[4, 4, 4, 2],
    ),
    kornia(
        "models.rrdbnet:RRDBNet",
        "ESRGAN",
        32,
        num_feat=16,
        num_block=1,
        num_grow_ch=8,
        scale=4,
        num_in_ch=3,
        num_out_ch=3,
    ),
    kornia("models.yunet:YuNet", "YuNet", 64, phase="test", pretrained=False),
    single("efficientnet_pytorch", "EfficientNet.from_name", "EfficientNet", 64, model_name="efficientnet-b0"),
    single("facenet_pytorch", "InceptionResnetV1", "Inception-ResNet v1", 96, num_classes=5, classify=True),
    single("resnest", "resnest50", "ResNeSt", 64, of="resnest.torch"),
    single(
        "mlp_mixer_pytorch",
        "MLPMixer",
        "MLP-Mixer",
        32,
        image_size=32,
        channels=3,
        patch_size=8,
        dim=32,
        depth=2,
        num_classes=5,
    ),
    single(
        "g_mlp_pytorch",
        "gMLPVision",
        "gMLP",
        32,
        image_size=32,
        patch_size=8,
        num_classes=5,
        dim=32,
        depth=2,
        prob_survival=1.0,
    ),
    single("res_mlp_pytorch", "ResMLP", "ResMLP", 32, image_size=32, patch_size=8, dim=32, depth=2, num_classes=5),
    PERCEIVER,
    single(
        "halonet_pytorch", "HaloAttention", "HaloNet", 32, 32, dim=32, block_size=8, halo_size=4, dim_head=8, heads=2
    ),
    single("lambda_networks", "LambdaLayer", "LambdaNet", 32, 32, dim=32, dim_out=32, r=7, dim_k=8, heads=2, dim_u=1),
    single(
        "bottleneck_transformer_pytorch",
        "BottleStack",
        "BoTNet",
        32,
        32,
        dim=32,
        fmap_size=32,
        dim_out=64,
        num_layers=2,
        heads=2,
        dim_head=8,
    ),
    single("axial_attention", "AxialAttention", "Axial attention", 16, 32, dim=32, dim_index=1, heads=2),
    clip("CLIP"),
    clip("CLIP-ResNet", layers=[1, 1, 1, 1], width=8),
)
