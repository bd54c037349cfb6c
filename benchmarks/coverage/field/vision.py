"""Models for images: classification, segmentation, detection, features."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from benchmarks.coverage.field.model import Ids, Model, Real, image, made

TIMM: Mapping[str, tuple[str, int]] = {
    "vit_tiny_patch16_224": ("ViT", 224),
    "vit_small_patch16_rope_224": ("RoPE ViT", 224),
    "beit_base_patch16_224": ("BEiT", 224),
    "eva02_tiny_patch14_224": ("EVA-02", 224),
    "deit3_small_patch16_224": ("DeiT III", 224),
    "davit_tiny": ("DaViT", 224),
    "efficientformerv2_s0": ("EfficientFormer v2", 224),
    "efficientvit_m0": ("EfficientViT (MSRA)", 224),
    "efficientvit_b0": ("EfficientViT (MIT)", 64),
    "fastvit_t8": ("FastViT", 64),
    "focalnet_tiny_srf": ("FocalNet", 64),
    "gcvit_xxtiny": ("GC ViT", 224),
    "hiera_tiny_224": ("Hiera", 224),
    "inception_next_atto": ("InceptionNeXt", 64),
    "maxvit_rmlp_pico_rw_256": ("MaxViT", 256),
    "coatnet_pico_rw_224": ("CoAtNet", 224),
    "mobilevitv2_050": ("MobileViT v2", 64),
    "mvitv2_tiny": ("MViT v2", 224),
    "nest_tiny": ("NesT", 224),
    "nextvit_small": ("Next-ViT", 64),
    "pnasnet5large": ("PNASNet", 96),
    "rdnet_tiny": ("RDNet", 64),
    "repvit_m0_9": ("RepViT", 64),
    "resnest14d": ("ResNeSt", 64),
    "res2net50_26w_4s": ("Res2Net", 64),
    "sequencer2d_s": ("Sequencer", 224),
    "shvit_s1": ("SHViT", 64),
    "starnet_s1": ("StarNet", 64),
    "swiftformer_xs": ("SwiftFormer", 224),
    "swinv2_tiny_window8_256": ("Swin v2", 256),
    "tiny_vit_5m_224": ("TinyViT", 224),
    "tnt_s_patch16_224": ("TNT", 224),
    "tf_efficientnet_cc_b0_4e": ("CondConv", 64),
    "twins_svt_small": ("Twins", 224),
    "vitamin_small_224": ("ViTamin", 224),
    "volo_d1_224": ("VOLO", 224),
    "mambaout_femto": ("MambaOut", 64),
    "mixnet_s": ("MixNet", 64),
    "ghostnetv2_100": ("GhostNet", 64),
    "eca_halonext26ts": ("HaloNet", 256),
    "lambda_resnet26t": ("LambdaNet", 256),
    "botnet26t_256": ("BoTNet", 256),
    "cs3darknet_s": ("CSPNet", 64),
    "dm_nfnet_f0": ("NFNet", 64),
    "gmlp_ti16_224": ("gMLP", 224),
    "hgnetv2_b0": ("HGNet", 64),
    "csatv2": ("CSAT", 224),
    "crossvit_tiny_240": ("CrossViT", 240),
    "convmixer_768_32": ("ConvMixer", 64),
    "skresnet18": ("SKNet", 64),
}

SMALL_TIMM: Mapping[str, Mapping[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
}

PYTORCHCV: Mapping[str, tuple[str, int]] = {
    "resnet20_cifar10": ("ResNet", 32),
    "preresnet20_cifar10": ("PreResNet", 32),
    "seresnet20_cifar10": ("SENet", 32),
    "sepreresnet20_cifar10": ("SENet", 32),
    "pyramidnet110_a48_cifar10": ("PyramidNet", 32),
    "densenet40_k12_cifar10": ("DenseNet", 32),
    "xdensenet40_2_k24_bc_cifar10": ("X-DenseNet", 32),
    "nin_cifar10": ("Network in Network", 32),
    "ror3_56_cifar10": ("RoR", 32),
    "rir_cifar10": ("RiR", 32),
    "shakeshakeresnet20_2x16d_cifar10": ("Shake-Shake", 32),
    "diaresnet20_cifar10": ("DIA", 32),
    "fractalnet_cifar10": ("FractalNet", 32),
    "bagnet9": ("BagNet", 224),
    "bam_resnet18": ("BAM", 224),
    "cbam_resnet18": ("CBAM", 224),
    "channelnet": ("ChannelNet", 224),
    "condensenet74_c4_g4": ("CondenseNet", 224),
    "darknet_tiny": ("DarkNet", 224),
    "darts": ("DARTS", 224),
    "dicenet_wd5": ("DiCENet", 224),
    "diracnet18v2": ("DiracNet", 224),
    "dla34": ("DLA", 224),
    "dpn68": ("DPN", 224),
    "drnc26": ("DRN", 224),
    "espnetv2_wd2": ("ESPNet v2", 224),
    "fbnet_cb": ("FBNet", 224),
    "fdmobilenet_wd4": ("FD-MobileNet", 224),
    "fishnet99": ("FishNet", 224),
    "ghostnet": ("GhostNet", 224),
    "hardnet39ds": ("HarDNet", 224),
    "hrnet_w18_small_v1": ("HRNet", 224),
    "ibn_resnet50": ("IBN-Net", 224),
    "igcv3_wd4": ("IGCV3", 224),
    "irevnet301": ("i-RevNet", 224),
    "menet108_8x1_g3": ("MENet", 224),
    "mixnet_s": ("MixNet", 224),
    "mnasnet_small": ("MNASNet", 224),
    "mobilenet_wd4": ("MobileNet v1", 224),
    "mobilenetv2_wd4": ("MobileNet v2", 224),
    "mobilenetv3_small_wd2": ("MobileNet v3", 224),
    "msdnet22": ("MSDNet", 224),
    "nasnet_4a1056": ("NASNet", 224),
    "peleenet": ("PeleeNet", 224),
    "proxylessnas_mobile": ("ProxylessNAS", 224),
    "regnetx002": ("RegNet", 224),
    "resnesta18": ("ResNeSt", 224),
    "resnetd50b": ("ResNet", 224),
    "revnet38": ("RevNet", 224),
    "scnet50": ("SCNet", 224),
    "selecsls42": ("SelecSLS", 224),
    "sharesnet18": ("ShaResNet", 224),
    "shufflenet_g1_wd4": ("ShuffleNet", 224),
    "shufflenetv2_wd2": ("ShuffleNet v2", 224),
    "sknet50": ("SKNet", 224),
    "sparsenet121": ("SparseNet", 224),
    "spnasnet": ("SPNASNet", 224),
    "squeezenet_v1_1": ("SqueezeNet", 224),
    "tresnet_m": ("TResNet", 224),
    "vovnet27s": ("VoVNet", 224),
    "zfnet": ("ZFNet", 224),
    "bninception": ("BN-Inception", 224),
    "xception": ("Xception", 224),
    "airnet50_1x64d_r2": ("AirNet", 224),
    "resattnet56": ("Residual Attention", 224),
    "resneta10": ("ResNet(A)", 224),
    "isqrtcovresnet18": ("iSQRT-COV", 224),
    "bisenet_resnet18_celebamaskhq": ("BiSeNet", 64),
    "cgnet_cityscapes": ("CGNet", 64),
    "dabnet_cityscapes": ("DABNet", 64),
    "edanet_cityscapes": ("EDANet", 64),
    "enet_cityscapes": ("ENet", 64),
    "erfnet_cityscapes": ("ERFNet", 64),
    "esnet_cityscapes": ("ESNet", 64),
    "espcnet_cityscapes": ("ESPNet", 64),
    "fastscnn_cityscapes": ("Fast-SCNN", 64),
    "fpenet_cityscapes": ("FPENet", 64),
    "lednet_cityscapes": ("LEDNet", 64),
    "linknet_cityscapes": ("LinkNet", 64),
    "segnet_cityscapes": ("SegNet", 64),
    "sinet_cityscapes": ("SINet", 128),
    "unet_cityscapes": ("U-Net", 64),
    "danet_resnetd50b_cityscapes": ("DANet", 64),
    "icnet_resnetd50b_cityscapes": ("ICNet", 64),
    "centernet_resnet18_voc": ("CenterNet", 64),
    "lwopenpose2d_mobilenet_cmupan_coco": ("OpenPose", 64),
    "simplepose_resnet18_coco": ("SimplePose", 64),
    "alphapose_fastseresnet101b_coco": ("AlphaPose", 64),
}

CITYSCAPES: Mapping[str, Any] = {"in_size": (64, 64)}

SMP: tuple[tuple[str, str, str, Mapping[str, Any]], ...] = (
    ("Unet", "U-Net", "resnet18", {}),
    ("Unet", "U-Net", "mobilenet_v2", {"decoder_attention_type": "scse"}),
    ("Unet", "U-Net", "timm-regnetx_002", {}),
    ("Unet", "U-Net", "mit_b0", {}),
    ("Unet", "U-Net", "mobileone_s0", {}),
    ("Unet", "U-Net", "tu-ghostnet_100", {}),
    ("UnetPlusPlus", "U-Net++", "resnet18", {}),
    ("MAnet", "MA-Net", "resnet18", {}),
    ("Linknet", "LinkNet", "resnet18", {}),
    ("FPN", "FPN", "resnet18", {}),
    ("FPN", "FPN", "efficientnet-b0", {}),
    ("PSPNet", "PSPNet", "resnet18", {}),
    ("PAN", "PAN", "resnet18", {}),
    ("DeepLabV3", "DeepLab v3", "resnet18", {}),
    ("DeepLabV3Plus", "DeepLab v3+", "resnet18", {}),
    ("UPerNet", "UPerNet", "resnet18", {}),
    ("Segformer", "SegFormer", "resnet18", {}),
    ("DPT", "DPT", "tu-vit_tiny_patch16_224", {"dynamic_img_size": True}),
)

YOLOS: Mapping[str, str] = {
    "yolov3-tiny": "YOLO v3",
    "yolov5n": "YOLO v5",
    "yolov6n": "YOLO v6",
    "yolov8n": "YOLO v8",
    "yolov8n-ghost": "YOLO v8",
    "yolov8n-p2": "YOLO v8",
    "yolov8n-seg": "YOLO v8 seg",
    "yolov8n-pose": "YOLO v8 pose",
    "yolov8n-obb": "YOLO v8 obb",
    "yolov8n-cls": "YOLO v8 cls",
    "yolov9t": "YOLO v9",
    "yolov9s": "YOLO v9",
    "yolov10n": "YOLO v10",
    "yolo11n": "YOLO 11",
    "yolo11n-seg": "YOLO 11 seg",
    "yolo11n-pose": "YOLO 11 pose",
    "yolo11n-obb": "YOLO 11 obb",
    "yolo11n-cls": "YOLO 11 cls",
    "yolo12n": "YOLO 12",
    "yolo12n-seg": "YOLO 12",
    "yolo26n": "YOLO 26",
}

VIT: Mapping[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 48,
}
LUCIDRAINS: tuple[tuple[str, str, int, Mapping[str, Any]], ...] = (
    ("vit:ViT", "ViT", 32, VIT),
    ("simple_vit:SimpleViT", "ViT", 32, VIT),
    ("simple_vit_with_register_tokens:SimpleViT", "ViT", 32, VIT),
    ("simple_vit_with_qk_norm:SimpleViT", "ViT", 32, VIT),
    ("deepvit:DeepViT", "DeepViT", 32, VIT),
    ("cait:CaiT", "CaiT", 32, {**VIT, "cls_depth": 1}),
    ("parallel_vit:ViT", "Parallel ViT", 32, VIT),
    ("vit_for_small_dataset:ViT", "SL-ViT", 32, VIT),
    ("rvt:RvT", "RvT", 32, VIT),
    ("learnable_memory_vit:ViT", "ViT", 32, VIT),
    ("cvt:CvT", "CvT", 64, {"num_classes": 5, "s1_emb_dim": 16, "s2_emb_dim": 16, "s3_emb_dim": 16, "s3_depth": 1}),
    (
        "cct:CCT",
        "CCT",
        32,
        {
            "img_size": (32, 32),
            "num_layers": 2,
            "num_heads": 2,
            "embedding_dim": 32,
            "num_classes": 5,
            "positional_embedding": "learnable",
        },
    ),
    ("crossformer:CrossFormer", "CrossFormer", 224, {"num_classes": 5, "dim": (32, 32, 64, 64), "depth": (1, 1, 1, 1)}),
    (
        "levit:LeViT",
        "LeViT",
        32,
        {
            "image_size": 32,
            "num_classes": 5,
            "stages": 2,
            "dim": (32, 48),
            "depth": 1,
            "heads": (2, 2),
            "mlp_mult": 2,
            "dim_key": 16,
            "dim_value": 16,
        },
    ),
    (
        "max_vit:MaxViT",
        "MaxViT",
        56,
        {
            "num_classes": 5,
            "dim_conv_stem": 16,
            "dim": 16,
            "dim_head": 8,
            "depth": (1,),
            "window_size": 7,
            "dropout": 0.0,
        },
    ),
    (
        "mobile_vit:MobileViT",
        "MobileViT",
        64,
        {
            "image_size": (64, 64),
            "dims": [16, 24, 32],
            "channels": [8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32],
            "num_classes": 5,
        },
    ),
    (
        "nest:NesT",
        "NesT",
        32,
        {
            "image_size": 32,
            "patch_size": 4,
            "dim": 16,
            "heads": 2,
            "num_hierarchies": 2,
            "block_repeats": (1, 1),
            "num_classes": 5,
        },
    ),
    ("pit:PiT", "PiT", 32, {**VIT, "depth": (1, 1), "patch_size": 4}),
    ("regionvit:RegionViT", "RegionViT", 224, {"dim": (16, 16, 32, 32), "depth": (1, 1, 1, 1), "num_classes": 5}),
    (
        "scalable_vit:ScalableViT",
        "ScalableViT",
        64,
        {
            "num_classes": 5,
            "dim": 16,
            "heads": (1, 2),
            "depth": (1, 1),
            "ssa_dim_key": (8, 8),
            "reduction_factor": (2, 1),
            "window_size": (8, 4),
        },
    ),
    (
        "sep_vit:SepViT",
        "SepViT",
        56,
        {"num_classes": 5, "dim": 16, "dim_head": 8, "heads": (1, 2), "depth": (1, 1), "window_size": 7},
    ),
    (
        "t2t:T2TViT",
        "T2T-ViT",
        32,
        {"image_size": 32, "num_classes": 5, "dim": 32, "depth": 1, "heads": 2, "mlp_dim": 48},
    ),
    ("xcit:XCiT", "XCiT", 32, {**VIT, "cls_depth": 1}),
    ("vit_with_patch_merger:ViT", "Patch Merger", 32, {**VIT, "patch_merge_layer": 1, "patch_merge_num_tokens": 4}),
    (
        "cross_vit:CrossViT",
        "CrossViT",
        32,
        {
            "image_size": 32,
            "num_classes": 5,
            "depth": 1,
            "sm_dim": 16,
            "lg_dim": 24,
            "sm_patch_size": 4,
            "lg_patch_size": 8,
        },
    ),
    ("jumbo_vit:JumboViT", "Jumbo ViT", 32, {**VIT, "num_jumbo_cls": 1, "jumbo_cls_k": 2}),
    ("normalized_vit:nViT", "nViT", 32, VIT),
)

KORNIA: tuple[tuple[str, str, int, int, Mapping[str, Any]], ...] = (
    ("kornia.feature:HardNet", "HardNet descriptor", 32, 1, {"pretrained": False}),
    ("kornia.feature:HyNet", "HyNet", 32, 1, {"pretrained": False}),
    ("kornia.feature:SOSNet", "SOSNet", 32, 1, {"pretrained": False}),
    ("kornia.feature:TFeat", "TFeat", 32, 1, {"pretrained": False}),
    ("kornia.feature:KeyNet", "Key.Net", 64, 1, {"pretrained": False}),
    ("kornia.feature:DISK", "DISK", 64, 3, {}),
    ("kornia.feature.xfeat:XFeatModel", "XFeat", 64, 3, {}),
    ("kornia.models.dexined:DexiNed", "DexiNed", 64, 3, {"pretrained": False}),
    (
        "kornia.models.vit:VisionTransformer",
        "ViT",
        32,
        3,
        {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    ),
    ("kornia.models.vit_mobile:MobileViT", "MobileViT", 256, 3, {"mode": "xxs"}),
    (
        "kornia.models.tiny_vit:TinyViT",
        "TinyViT",
        64,
        3,
        {
            "img_size": 64,
            "num_classes": 5,
            "embed_dims": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_sizes": [4, 4, 4, 2],
        },
    ),
    (
        "kornia.models.rrdbnet:RRDBNet",
        "ESRGAN",
        32,
        3,
        {"num_feat": 16, "num_block": 1, "num_grow_ch": 8, "scale": 4, "num_in_ch": 3, "num_out_ch": 3},
    ),
    ("kornia.models.yunet:YuNet", "YuNet", 64, 3, {"phase": "test", "pretrained": False}),
)

OTHERS: tuple[tuple[str, str, str, int, Mapping[str, Any]], ...] = (
    ("efficientnet_pytorch", "EfficientNet.from_name", "EfficientNet", 64, {"model_name": "efficientnet-b0"}),
    ("facenet_pytorch", "InceptionResnetV1", "Inception-ResNet v1", 96, {"num_classes": 5, "classify": True}),
    ("resnest", "torch.resnest50", "ResNeSt", 64, {}),
    (
        "mlp_mixer_pytorch",
        "MLPMixer",
        "MLP-Mixer",
        32,
        {"image_size": 32, "channels": 3, "patch_size": 8, "dim": 32, "depth": 2, "num_classes": 5},
    ),
    (
        "g_mlp_pytorch",
        "gMLPVision",
        "gMLP",
        32,
        {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2, "prob_survival": 1.0},
    ),
    (
        "res_mlp_pytorch",
        "ResMLP",
        "ResMLP",
        32,
        {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "num_classes": 5},
    ),
    (
        "perceiver_pytorch",
        "Perceiver",
        "Perceiver",
        0,
        {
            "num_freq_bands": 2,
            "depth": 2,
            "max_freq": 4.0,
            "num_latents": 8,
            "latent_dim": 32,
            "latent_heads": 2,
            "latent_dim_head": 8,
            "cross_dim_head": 8,
            "num_classes": 5,
        },
    ),
    (
        "halonet_pytorch",
        "HaloAttention",
        "HaloNet",
        32,
        {"dim": 32, "block_size": 8, "halo_size": 4, "dim_head": 8, "heads": 2},
    ),
    (
        "lambda_networks",
        "LambdaLayer",
        "LambdaNet",
        32,
        {"dim": 32, "dim_out": 32, "r": 7, "dim_k": 8, "heads": 2, "dim_u": 1},
    ),
    (
        "bottleneck_transformer_pytorch",
        "BottleStack",
        "BoTNet",
        32,
        {"dim": 32, "fmap_size": 32, "dim_out": 64, "num_layers": 2, "heads": 2, "dim_head": 8},
    ),
    ("axial_attention", "AxialAttention", "Axial attention", 16, {"dim": 32, "dim_index": 1, "heads": 2}),
)
DEEP_PLANES = {"halonet_pytorch", "lambda_networks", "bottleneck_transformer_pytorch", "axial_attention"}


def models() -> Iterator[Model]:
    """All models of this file."""
    for name, (family, side) in TIMM.items():
        small = SMALL_TIMM.get(name, {})
        yield image("timm", name, family, made("timm:create_model", name, pretrained=False, **small), side)
    for name, (family, side) in PYTORCHCV.items():
        own = CITYSCAPES if side == 64 and _is_dense(name) else {}
        yield image("pytorchcv", name, family, made("pytorchcv.model_provider:get_model", name, **own), side)
    for name, family, encoder, options in SMP:
        build = made(f"segmentation_models_pytorch:{name}", encoder, encoder_weights=None, classes=3, **options)
        yield image("segmentation_models_pytorch", f"{name}-{encoder}", family, build, 64)
    for name, family in YOLOS.items():
        yield image("ultralytics", name, family, made("benchmarks.coverage.field.vision:yolo", name), 64)
    yield image(
        "ultralytics",
        "rtdetr-resnet50",
        "RT-DETR",
        made("benchmarks.coverage.field.vision:yolo", "rtdetr-resnet50"),
        64,
    )
    for name, family, side, options in LUCIDRAINS:
        yield image("vit_pytorch", name.replace(":", "."), family, made(f"vit_pytorch.{name}", **options), side)
    for name, family, side, planes, options in KORNIA:
        yield image("kornia", name.split(":")[1], family, made(name, **options), side, planes)
    for package, name, family, side, options in OTHERS:
        target = (
            f"{package}.{name.split('.')[0]}:{name.split('.')[1]}" if name.startswith("torch.") else f"{package}:{name}"
        )
        build = made(target, **options)
        if side:
            yield image(package, name, family, build, side, 32 if package in DEEP_PLANES else 3)
        else:
            yield Model(package, name, family, build, (Real((2, 8, 8, 3)),), (Real((3, 8, 12, 3)),))
    yield from _open_clip()


def _is_dense(name: str) -> bool:
    return name.endswith(("_cityscapes", "_voc", "_celebamaskhq", "_coco"))


def yolo(name: str) -> nn.Module:
    """The network of an ultralytics yaml, with its heads for detection, segmentation, poses or oriented boxes."""
    from ultralytics.nn import tasks  # noqa: PLC0415 (slow, and not always installed)

    kinds = {"seg": "SegmentationModel", "pose": "PoseModel", "obb": "OBBModel", "cls": "ClassificationModel"}
    kind = "RTDETRDetectionModel" if "rtdetr" in name else kinds.get(name.rsplit("-", 1)[-1], "DetectionModel")
    model: nn.Module = getattr(tasks, kind)(f"{name}.yaml", verbose=False)
    return model


def _open_clip() -> Iterator[Model]:
    vision: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
    tower = {"context_length": 16, "vocab_size": 60, "width": 32, "heads": 4, "layers": 2}
    build = made("open_clip:CLIP", embed_dim=16, vision_cfg=vision, text_cfg=tower)
    yield Model(
        "open_clip", "CLIP", "CLIP", build, (Real((2, 3, 32, 32)), Ids((2, 16))), (Real((3, 3, 32, 32)), Ids((3, 16)))
    )
    build = made(
        "open_clip:CLIP", embed_dim=16, vision_cfg={**vision, "layers": [1, 1, 1, 1], "width": 8}, text_cfg=tower
    )
    yield Model(
        "open_clip",
        "CLIP-ResNet",
        "CLIP",
        build,
        (Real((2, 3, 32, 32)), Ids((2, 16))),
        (Real((3, 3, 32, 32)), Ids((3, 16))),
    )
