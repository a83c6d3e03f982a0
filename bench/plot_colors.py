"""The colors of the contenders, the same in every plot."""

from __future__ import annotations

COLORS = {
    "lightsr": "#c1272d",
    "pytorch": "#555555",
    "compiled": "#9a9a9a",
    "onnxruntime": "#0072b2",
    "openvino": "#009e73",
}
OTHER = "#e69f00"
