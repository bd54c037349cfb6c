"""All classification, segmentation and video models of torchvision, and small ones of timm, with their smallest inputs.

Of timm there are several families of each kind of design.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.coverage.model import Model, Real, made

FAMILIES = {
    r"vgg": "VGG",
    r"(wide_)?resnet\d": "ResNet",
    r"resnext": "ResNeXt",
    r"densenet": "DenseNet",
    r"mobilenet": "MobileNet",
    r"mnasnet": "MNASNet",
    r"efficientnet": "EfficientNet",
    r"regnet": "RegNet",
    r"shufflenet": "ShuffleNet",
    r"squeezenet|alexnet": "AlexNet, SqueezeNet",
    r"googlenet|inception": "Inception",
    r"convnext": "ConvNeXt",
    r"vit_": "ViT",
    r"swin_": "Swin",
    r"maxvit": "MaxViT",
    r"deeplab|fcn|lraspp": "segmentation",
    r"r3d|mc3|r2plus1d|s3d": "video CNN",
    r"mvit|swin3d": "video transformer",
}
"""Families of the torchvision models, by the beginning of their names."""

SHAPES = {
    r"inception_v3": (3, 299, 299),  # its auxiliary head takes no smaller image
    r"googlenet": (3, 96, 96),
    r"vit_|maxvit": (3, 224, 224),  # position embeddings
    r"mvit": (3, 16, 224, 224),  # position embeddings
    r"s3d": (3, 16, 224, 224),  # its last pool
    r"swin3d": (3, 4, 64, 64),
    r"r3d|mc3|r2plus1d": (3, 8, 64, 64),
}
SHAPE = (3, 64, 64)

GIBIBYTES = {
    r"regnet_y_128gf|vit_h_14|vgg": 14,
    r"convnext_large|efficientnet_v2_l|wide_resnet101|regnet_[xy]_32gf": 14,
    r"vit_l": 8,
}
"""Memory for the checks of the largest models."""

SLOW_INITIALISATION = {r"googlenet|inception_v3": {"init_weights": False}}
SEGMENTATION = {"weights_backbone": None}
SINGLE = r"mvit"
"""Models that are checked with a batch of one: they have no batch norms, and their examples are large."""

TIMM: Mapping[str, tuple[str, int]] = {
    # name: (family, side in pixels)
    "resnet26d": ("resnet", 64),
    "seresnet50": ("resnet", 64),
    "resnetblur50": ("resnet", 64),
    "ecaresnet26t": ("resnet", 64),
    "resnetv2_50": ("resnetv2", 64),
    "resnest14d": ("resnest", 64),
    "res2net50_26w_4s": ("res2net", 64),
    "skresnet18": ("sknet", 64),
    "legacy_seresnet18": ("senet", 64),
    "densenetblur121d": ("densenet", 64),
    "dla34": ("dla", 64),
    "dpn68": ("dpn", 64),
    "efficientnet_lite0": ("efficientnet", 64),
    "tf_efficientnet_b0": ("efficientnet", 64),
    "mixnet_s": ("efficientnet", 64),
    "mobilenetv3_small_050": ("mobilenetv3", 64),
    "lcnet_050": ("mobilenetv3", 64),
    "mobilenetv4_conv_small": ("mobilenetv3", 64),
    "ghostnet_100": ("ghostnet", 64),
    "repghostnet_050": ("repghost", 64),
    "hrnet_w18_small": ("hrnet", 64),
    "regnetx_002": ("regnet", 64),
    "regnety_002": ("regnet", 64),
    "rexnet_100": ("rexnet", 64),
    "selecsls42": ("selecsls", 64),
    "ese_vovnet19b_dw": ("vovnet", 64),
    "xception41": ("xception_aligned", 64),
    "inception_v4": ("inception_v4", 96),
    "inception_next_atto": ("inception_next", 64),
    "nf_resnet26": ("nfnet", 64),
    "cspresnet50": ("cspnet", 64),
    "darknet53": ("cspnet", 64),
    "convmixer_768_32": ("convmixer", 64),
    "convnext_atto": ("convnext", 64),
    "convnextv2_atto": ("convnext", 64),
    "repvgg_a0": ("byobnet", 64),
    "mobileone_s0": ("byobnet", 64),
    "gernet_s": ("byobnet", 64),
    "hgnet_tiny": ("hgnet", 64),
    "starnet_s1": ("starnet", 64),
    "fasternet_t0": ("fasternet", 64),
    "repvit_m0_9": ("repvit", 64),
    "tresnet_m": ("tresnet", 64),
    "vit_tiny_patch16_224": ("vision_transformer", 224),
    "deit_tiny_patch16_224": ("deit", 224),
    "cait_xxs24_224": ("cait", 224),
    "coat_tiny": ("coat", 224),
    "convit_tiny": ("convit", 224),
    "edgenext_xx_small": ("edgenext", 64),
    "efficientformer_l1": ("efficientformer", 224),
    "efficientvit_b0": ("efficientvit_mit", 64),
    "fastvit_t8": ("fastvit", 64),
    "levit_128s": ("levit", 224),
    "mixer_s32_224": ("mlp_mixer", 224),
    "resmlp_12_224": ("mlp_mixer", 224),
    "mobilevit_xxs": ("mobilevit", 64),
    "mambaout_femto": ("mambaout", 64),
    "pit_ti_224": ("pit", 224),
    "poolformer_s12": ("metaformer", 64),
    "caformer_s18": ("metaformer", 64),
    "pvt_v2_b0": ("pvt_v2", 64),
    "swin_tiny_patch4_window7_224": ("swin_transformer", 224),
    "twins_pcpvt_small": ("twins", 224),
    "visformer_tiny": ("visformer", 224),
    "xcit_nano_12_p16_224": ("xcit", 224),
}
"""Small models of timm: at least one of every family that a user may meet often."""


def models() -> Iterator[Model]:
    """Those of torchvision, then those of timm."""
    from torchvision import models  # noqa: PLC0415 (slow)

    for kind in (None, models.segmentation, models.video):
        for name in models.list_models(kind or models):
            yield _torchvision(name, kind is models.segmentation)
    for name, (family, side) in TIMM.items():
        build = made("timm:create_model", name, pretrained=False)
        yield Model("timm", name, family, build, (Real((2, 3, side, side)),))


def _torchvision(name: str, segmentation: bool) -> Model:
    options = SEGMENTATION if segmentation else _first(SLOW_INITIALISATION, name, {})
    return Model(
        "torchvision",
        name,
        _first(FAMILIES, name, "other"),
        made("torchvision.models:get_model", name, weights=None, **options),
        (Real((1 if re.match(SINGLE, name) else 2, *_first(SHAPES, name, SHAPE))),),
        gibibytes=_first(GIBIBYTES, name, 0),
    )


def _first(table: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for start, value in table.items() if re.match(start, name)), default)
