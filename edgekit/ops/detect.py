"""What stands at the end of a detector."""

from __future__ import annotations

from edgekit.ops.context import Operand, Tfl
from edgekit.ops.declare import Layout, Quant, Scale, op, unsupported


@op("NonMaxSuppression", since=11, layout=Layout.SOURCE, quant=Quant(scale=Scale.NONE, inputs=(0, 1)))
def non_max_suppression(
    tfl: Tfl,
    boxes: Operand,
    scores: Operand,
    max_output_boxes_per_class: Operand | None = None,
    iou_threshold: Operand | None = None,
    score_threshold: Operand | None = None,
    *,
    center_point_box: int = 0,
) -> None:
    """None; ONNX keeps it, in float."""
    end = f'end the model before it: [model] outputs = ["{boxes.name}", "{scores.name}"]'
    unsupported(f"gives no fixed number of boxes; {end}")
