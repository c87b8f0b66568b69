"""Architectures as the package ``transformers`` defines them, small: configurations only, no weights are fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import nn
from zoo_models import Entry, Input


class Plain(nn.Module):
    """A model of ``transformers`` that takes tensors in order and gives the named outputs alone."""

    def __init__(self, inner: nn.Module, takes: Sequence[str], gives: Sequence[str]) -> None:
        super().__init__()
        self.inner, self.takes, self.gives = inner, tuple(takes), tuple(gives)

    def forward(self, *inputs: torch.Tensor) -> Any:
        found = self.inner(**dict(zip(self.takes, inputs, strict=True)))
        results = tuple(found[name] for name in self.gives)
        return results if len(results) > 1 else results[0]


def entry(prefix: str, part: str, config: Mapping[str, Any], inputs: Mapping[str, Input], gives: str) -> Entry:
    """An entry for ``PREFIXPART`` of ``transformers`` under ``PREFIXConfig``; ``gives`` names outputs, with commas."""

    def make() -> nn.Module:
        settings = getattr(transformers, f"{prefix}Config")(**config)
        model = getattr(transformers, f"{prefix}{part}")(settings)
        return Plain(model, list(inputs), gives.split(","))

    return Entry(make, inputs)


CLASSES, MODEL = "ForImageClassification", "Model"
LOGITS, HIDDEN, POOLED = "logits", "last_hidden_state", "last_hidden_state,pooler_output"
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
PATCHES = SMALL | {"image_size": 64, "patch_size": 8, "num_labels": 10}
TEXT = SMALL | {"vocab_size": 200, "max_position_embeddings": 64, "num_labels": 5}
HEADS = "ForSequenceClassification"
VOCABULARY, LENGTH = 200, 32


def image(side: int = 64) -> dict[str, Input]:
    """One image."""
    return {"pixel_values": Input("image", (1, 3, side, side))}


def tokens(mask: bool = True) -> dict[str, Input]:
    """A sentence, and the mask that goes with it."""
    ids = {"input_ids": Input("tokens", (1, LENGTH), VOCABULARY)}
    return ids | ({"attention_mask": Input("mask", (1, LENGTH))} if mask else {})


def wave(length: int = 4000) -> dict[str, Input]:
    """A quarter of a second of sound."""
    return {"input_values": Input("wave", (1, length))}


SPEECH = SMALL | {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 4)}
SPEECH = SPEECH | {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
SPEECH = SPEECH | {"apply_spec_augment": False, "layerdrop": 0.0}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
CONVNEXT = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_labels": 10}
SEGFORMER = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4]}
MOBILEVIT = {"image_size": 64, "num_labels": 10}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "num_labels": 10}
LEVIT = {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
CVT = {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "num_labels": 10}
PVT = {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4]}
POOLFORMER = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.5}
SWIFTFORMER = {"image_size": 64, "embed_dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_labels": 10}
FOCALNET = {"image_size": 64, "embed_dim": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
HGNET = {"embedding_size": 16, "stem_channels": [3, 8, 16], "stage_in_channels": [16, 32, 48, 64], "num_labels": 10}
HGNET = HGNET | {"stage_mid_channels": [8, 16, 16, 24], "stage_out_channels": [32, 48, 64, 96]}
HGNET = HGNET | {"hidden_sizes": [32, 48, 64, 96], "stage_numb_of_layers": [2] * 4, "stage_num_blocks": [1] * 4}
ALBERT = TEXT | {"embedding_size": 32, "num_hidden_groups": 1}
ELECTRA, SQUEEZE = TEXT | {"embedding_size": 32}, TEXT | {"embedding_size": 64}
DISTIL = {"vocab_size": 200, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "num_labels": 5}
MOBILE = TEXT | {"hidden_size": 64, "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2}
FUNNEL = {"vocab_size": 200, "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [1, 1]}
GPT2 = {"vocab_size": 200, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False}
ROBERTA = TEXT | {"max_position_embeddings": 66}
FNET = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "use_cache": False}
T5 = {"vocab_size": 200, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
DEBERTA = TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
CONVBERT = TEXT | {"embedding_size": 64, "head_ratio": 2, "conv_kernel_size": 5}
WHISPER = {"num_mel_bins": 40, "max_source_positions": 50, "d_model": 64, "encoder_layers": 2}
WHISPER = WHISPER | {"encoder_attention_heads": 4, "encoder_ffn_dim": 128, "vocab_size": 200, "encoder_layerdrop": 0.0}
AST = SMALL | {"num_mel_bins": 64, "max_length": 96, "num_labels": 12}
SEW = SPEECH | {"squeeze_factor": 2, "num_feat_extract_layers": 3}
YOLOS = SMALL | {"image_size": [64, 64], "patch_size": 8, "num_detection_tokens": 10, "num_labels": 5}
DETR_BACKBONE = {"model_type": "resnet", **RESNET, "out_features": ["stage4"]}
DETR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
DETR = DETR | {"use_timm_backbone": False, "backbone_config": DETR_BACKBONE}
DETR = DETR | {"num_queries": 8, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_labels": 5}
DINO = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 56}
DINO = DINO | {"patch_size": 14, "num_labels": 10, "layerscale_value": 0.5}
DEPTH_BACKBONE = DINO | {
    "model_type": "dinov2",
    "num_hidden_layers": 4,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
}
DEPTH = {"reassemble_hidden_size": 64, "patch_size": 14, "neck_hidden_sizes": [16, 24, 32, 32]}
DEPTH = DEPTH | {"fusion_hidden_size": 16, "head_hidden_size": 8, "backbone_config": DEPTH_BACKBONE}
DPT = PATCHES | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 32]}
DPT = DPT | {"fusion_hidden_size": 16, "is_hybrid": False}
POSE_BACKBONE = {
    "image_size": [64, 48],
    "patch_size": [16, 16],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "mlp_ratio": 2,
}
POSE_BACKBONE = POSE_BACKBONE | {"model_type": "vitpose_backbone", "num_attention_heads": 4, "out_features": ["stage2"]}
POSE = {"backbone_config": POSE_BACKBONE, "num_labels": 5}
PATCHTST = {"num_input_channels": 4, "context_length": 64, "patch_length": 8, "patch_stride": 8, "d_model": 32}
PATCHTST = PATCHTST | {"num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "prediction_length": 8}
CLIP = SMALL | {"image_size": 64, "patch_size": 8}

ENTRIES: dict[str, Entry] = {
    "vit": entry("ViT", CLASSES, PATCHES, image(), LOGITS),
    "deit": entry("DeiT", CLASSES, PATCHES, image(), LOGITS),
    "beit": entry("Beit", CLASSES, PATCHES | {"use_relative_position_bias": True}, image(), LOGITS),
    "dinov2": entry("Dinov2", CLASSES, DINO, image(56), LOGITS),
    "clip_vision": entry("CLIPVision", MODEL, CLIP, image(), POOLED),
    "siglip_vision": entry("SiglipVision", MODEL, CLIP, image(), POOLED),
    "mobilevit": entry(
        "MobileViT",
        CLASSES,
        MOBILEVIT | {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 24, 32, 40, 48, 96]},
        image(),
        LOGITS,
    ),
    "mobilevitv2": entry("MobileViTV2", CLASSES, MOBILEVIT | {"width_multiplier": 0.5}, image(), LOGITS),
    "mobilenet_v1": entry("MobileNetV1", CLASSES, {"depth_multiplier": 0.25, "num_labels": 10}, image(), LOGITS),
    "mobilenet_v2": entry("MobileNetV2", CLASSES, {"depth_multiplier": 0.35, "num_labels": 10}, image(), LOGITS),
    "efficientnet": entry(
        "EfficientNet",
        CLASSES,
        {"width_coefficient": 0.35, "depth_coefficient": 0.5, "hidden_dim": 448},
        image(),
        LOGITS,
    ),
    "resnet": entry("ResNet", CLASSES, RESNET, image(), LOGITS),
    "regnet": entry("RegNet", CLASSES, RESNET | {"groups_width": 8}, image(), LOGITS),
    "bit": entry("Bit", CLASSES, RESNET | {"num_groups": 8, "layer_type": "preactivation"}, image(), LOGITS),
    "hgnet_v2": entry("HGNetV2", CLASSES, HGNET, image(), LOGITS),
    "textnet": entry(
        "TextNet",
        "ForImageClassification",
        {
            "stem_out_channels": 16,
            "hidden_sizes": [16, 16, 24, 32, 48],
            "num_labels": 10,
            "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [1, 3]], [[3, 3], [3, 1]], [[3, 3]]],
            "conv_layer_strides": [[2], [2, 1], [2, 1], [2]],
        },
        image(),
        LOGITS,
    ),
    "convnext": entry("ConvNext", CLASSES, CONVNEXT, image(), LOGITS),
    "convnextv2": entry("ConvNextV2", CLASSES, CONVNEXT, image(), LOGITS),
    "swin": entry("Swin", CLASSES, SWIN, image(), LOGITS),
    "swinv2": entry("Swinv2", CLASSES, SWIN, image(), LOGITS),
    "segformer": entry(
        "Segformer", "ForSemanticSegmentation", SEGFORMER | {"decoder_hidden_size": 32}, image(), LOGITS
    ),
    "glpn": entry("GLPN", "ForDepthEstimation", SEGFORMER | {"decoder_hidden_size": 16}, image(), "predicted_depth"),
    "poolformer": entry("PoolFormer", CLASSES, POOLFORMER, image(), LOGITS),
    "levit": entry("Levit", CLASSES, LEVIT, image(), LOGITS),
    "cvt": entry("Cvt", CLASSES, CVT, image(), LOGITS),
    "pvt": entry("Pvt", CLASSES, PVT, image(), LOGITS),
    "pvt_v2": entry("PvtV2", CLASSES, PVT, image(), LOGITS),
    "swiftformer": entry("SwiftFormer", CLASSES, SWIFTFORMER, image(), LOGITS),
    "focalnet": entry("FocalNet", CLASSES, FOCALNET, image(), LOGITS),
    "dpt": entry("DPT", "ForDepthEstimation", DPT, image(), "predicted_depth"),
    "depth_anything": entry("DepthAnything", "ForDepthEstimation", DEPTH, image(56), "predicted_depth"),
    "vitpose": entry(
        "VitPose", "ForPoseEstimation", POSE, {"pixel_values": Input("image", (1, 3, 64, 48))}, "heatmaps"
    ),
    "detr": entry("Detr", "ForObjectDetection", DETR, image(), "logits,pred_boxes"),
    "yolos": entry("Yolos", "ForObjectDetection", YOLOS, image(), "logits,pred_boxes"),
    "bert": entry("Bert", HEADS, TEXT, tokens(), LOGITS),
    "roberta": entry("Roberta", HEADS, ROBERTA, tokens(), LOGITS),
    "distilbert": entry("DistilBert", HEADS, DISTIL, tokens(), LOGITS),
    "mobilebert": entry("MobileBert", HEADS, MOBILE, tokens(), LOGITS),
    "albert": entry("Albert", HEADS, ALBERT, tokens(), LOGITS),
    "electra": entry("Electra", HEADS, ELECTRA, tokens(), LOGITS),
    "squeezebert": entry("SqueezeBert", HEADS, SQUEEZE, tokens(), LOGITS),
    "mpnet": entry("MPNet", HEADS, TEXT, tokens(), LOGITS),
    "convbert": entry("ConvBert", HEADS, CONVBERT, tokens(), LOGITS),
    "deberta_v2": entry("DebertaV2", HEADS, DEBERTA, tokens(), LOGITS),
    "funnel": entry("Funnel", "BaseModel", FUNNEL, tokens(), HIDDEN),
    "t5_encoder": entry("T5", "EncoderModel", T5, tokens(), HIDDEN),
    "gpt2": entry("GPT2", "LMHeadModel", GPT2, tokens(mask=False), LOGITS),
    "bert_tiny_no_mask": entry("Bert", MODEL, TEXT, tokens(mask=False), POOLED),
    "wav2vec2": entry("Wav2Vec2", MODEL, SPEECH, wave(), HIDDEN),
    "hubert": entry("Hubert", MODEL, SPEECH | {"feat_extract_norm": "layer"}, wave(), HIDDEN),
    "sew": entry("SEW", MODEL, SEW, wave(), HIDDEN),
    "whisper_encoder": entry(
        "Whisper", "ForAudioClassification", WHISPER, {"input_features": Input("mel", (1, 40, 100))}, LOGITS
    ),
    "ast": entry("AST", "ForAudioClassification", AST, {"input_values": Input("mel", (1, 96, 64))}, LOGITS),
    "patchtst": entry(
        "PatchTST", "ForPrediction", PATCHTST, {"past_values": Input("mel", (1, 64, 4))}, "prediction_outputs"
    ),
}
