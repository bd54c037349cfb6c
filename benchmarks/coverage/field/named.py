"""Models for images that are known by their names alone: those of timm, pytorchcv, segmentation_models and YOLO."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from benchmarks.coverage.model import Model, image, made

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
    "xception": ("Xception", 299),
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
    "rtdetr-resnet50": "RT-DETR",
}


def models() -> Iterator[Model]:
    """All models of this file."""
    for name, (family, side) in TIMM.items():
        small = {"depth": 2, "embed_dim": 96, "num_heads": 3} if name == "beit_base_patch16_224" else {}
        yield image("timm", name, family, made("timm:create_model", name, pretrained=False, **small), side)
    for name, (family, side) in PYTORCHCV.items():
        own = {"in_size": (64, 64)} if side == 64 else {}
        yield image("pytorchcv", name, family, made("pytorchcv.model_provider:get_model", name, **own), side)
    yield from SEGMENTATION
    for name, family in YOLOS.items():
        yield image("ultralytics", name, family, made("benchmarks.coverage.field.named:yolo", name), 64)


def yolo(name: str) -> nn.Module:
    """The network of an ultralytics yaml, with its heads for detection, segmentation, poses or oriented boxes."""
    from ultralytics.nn import tasks  # noqa: PLC0415 (slow, and not always installed)

    kinds = {"seg": "SegmentationModel", "pose": "PoseModel", "obb": "OBBModel", "cls": "ClassificationModel"}
    kind = "RTDETRDetectionModel" if "rtdetr" in name else kinds.get(name.rsplit("-", 1)[-1], "DetectionModel")
    model: nn.Module = getattr(tasks, kind)(f"{name}.yaml", verbose=False)
    return model


def segmenter(name: str, family: str, encoder: str, side: int = 64, **options: Any) -> Model:
    """A model of segmentation_models_pytorch."""
    package = "segmentation_models_pytorch"
    build = made(f"{package}:{name}", encoder, encoder_weights=None, classes=3, **options)
    return image(package, f"{name}-{encoder}", family, build, side)


SEGMENTATION = (
    segmenter("Unet", "U-Net", "resnet18"),
    segmenter("Unet", "U-Net", "mobilenet_v2", decoder_attention_type="scse"),
    segmenter("Unet", "U-Net", "timm-regnetx_002"),
    segmenter("Unet", "U-Net", "mit_b0"),
    segmenter("Unet", "U-Net", "mobileone_s0"),
    segmenter("Unet", "U-Net", "tu-ghostnet_100"),
    segmenter("UnetPlusPlus", "U-Net++", "resnet18"),
    segmenter("MAnet", "MA-Net", "resnet18"),
    segmenter("Linknet", "LinkNet", "resnet18"),
    segmenter("FPN", "FPN", "resnet18"),
    segmenter("FPN", "FPN", "efficientnet-b0"),
    segmenter("PSPNet", "PSPNet", "resnet18"),
    segmenter("PAN", "PAN", "resnet18", 128),
    segmenter("DeepLabV3", "DeepLab v3", "resnet18"),
    segmenter("DeepLabV3Plus", "DeepLab v3+", "resnet18"),
    segmenter("UPerNet", "UPerNet", "resnet18"),
    segmenter("Segformer", "SegFormer", "resnet18"),
    segmenter("DPT", "DPT", "tu-vit_tiny_patch16_224", dynamic_img_size=True),
)
