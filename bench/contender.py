"""One way of computing a case, and what the engines that are no PyTorch have in common."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NotHereError(Exception):
    """This way cannot run this case; the message says why."""


@dataclass
class Contender:
    """One way of computing a case, ready to be called again and again."""

    name: str
    run: Callable[[], Any]
    result: Callable[[Any], Any] = field(default=lambda result: result)  # of what `run` returned, as the case has it


Prepare = Callable[[Any, Any], Contender]  # of a case and its inputs


def onnxruntime_settings() -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # or it would take cores from the next one
    return settings


def openvino_settings(dtype: str) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # or this thread, and the threads it makes, would be left with one core
        # Left to itself it computes float32 and float16 with the few digits of bfloat16.
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
    }


def tensor_of(x: Tensor, kind: Any) -> Any:
    """An OpenVINO tensor on the memory of x, which has to live on; numpy has no bfloat16, so bits are passed."""
    import openvino as ov

    bits = x.view(torch.uint16) if x.dtype == torch.bfloat16 else x
    return ov.Tensor(bits.numpy(), list(x.shape), kind)


def as_torch(x: Any, dtype: torch.dtype) -> Tensor:
    values = np.array(x.data)
    return torch.from_numpy(values.view(np.uint16)).view(dtype) if dtype == torch.bfloat16 else torch.from_numpy(values)


def need(*packages: str) -> None:
    missing = [each for each in packages if importlib.util.find_spec(each) is None]
    if missing:
        raise NotHereError(f"not installed: pip install {' '.join(missing)}")
