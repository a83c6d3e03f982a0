"""What a function computes on the CPU, recorded once, and computed again without the Python in between.

Between two kernels of a light network Python runs for a tenth of a millisecond and more: modules, checks, the choice of
a backend, memory. A recording has the kernels' own calls alone, on tensors that stay where they are: what a CUDA graph
is on a GPU. As there, sizes and strides are those of the example, and what depends on weights alone is computed once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .memory import LINE, empty
from .memory_plan import Lifetime, placed
from .recorder import NotRecordableError, Reading, Recorder, Step, View, all_of, mapped

_COPIES = frozenset(("aten::clone", "aten::_to_copy"))


class Recording:
    """Calls of operators on tensors that are made: `run()` takes what is in `input` and leaves `output`.

    `output` lasts until the next `run()`, and `input` until it is written over.
    """

    input: Tensor
    output: Tensor

    def __init__(self, recorder: Recorder, output: View) -> None:
        varying = recorder.varying()
        for number in varying - {recorder.input.storage}:
            if not recorder.storages[number].made:
                raise NotRecordableError("it changes a tensor of its own")
        steps = [step for step in recorder.steps if step.moves and not varying.isdisjoint(step.writes)]
        first, last = {recorder.input.storage: -1}, {recorder.input.storage: len(steps)}
        for place, step in enumerate(steps):
            for number in (step.reads | step.writes) & varying:
                first.setdefault(number, place)
                last[number] = max(place, last.get(number, place))
        if output.storage in first:
            last[output.storage] = len(steps)
        self._storages = recorder.storages
        sizes = [Lifetime(first[each], last[each], self._storages[each].size) for each in first]
        places, self.size = placed(sizes)
        self._places = dict(zip(first, places, strict=True))
        memory = empty((self.size + LINE,), torch.uint8, torch.device("cpu"))
        self._memory, self._begin = memory.untyped_storage(), -memory.data_ptr() % LINE
        self.input, self.output = self._tensor(recorder.input), self._tensor(output)
        self._calls = [call for step in steps for call in self._calls_of(step)]
        del self._storages

    def run(self) -> None:
        """Computes `output` from `input`."""
        for call in self._calls:
            call()

    def _tensor(self, view: View) -> Tensor:
        if view.storage in self._places:
            return view.on(self._memory, self._begin + self._places[view.storage])
        storage = self._storages[view.storage]
        if storage.value is None:  # nothing was ever written there
            return torch.empty_strided(view.size, view.stride, dtype=view.dtype)
        return view.on(storage.value, 0)

    def _calls_of(self, step: Step) -> Iterator[partial[Any]]:
        args, kwargs = mapped((step.args, step.kwargs), self._tensor)
        results = [self._tensor(each) for each in step.results]
        fresh = {each.storage for each in step.results} - step.reads
        if not fresh:
            yield partial(step.operator, *args, **kwargs)
        elif step.operator._schema.name in _COPIES:
            yield partial(results[0].copy_, args[0])
        elif (into := _into(step.operator)) is not None:
            yield partial(into[0], *args, **kwargs, **{into[1]: results[0]})
        else:
            yield partial(_copied, partial(step.operator, *args, **kwargs), results)


def record(function: Callable[[Tensor], Tensor], example: Tensor) -> Recording:
    """Calls a function of one tensor and records what it computes, without gradients; our kernels are left out of it.

    Args:
        function: gives one tensor, and does the same whatever the values in its argument.
        example: on the CPU, of the shape, strides and dtype that the recording is for.

    Raises NotRecordableError where the function looks at values, has results of sizes that depend on them, changes
    tensors of its own or gives something else than a tensor.

    Example:
        >>> import torch
        >>> from lightsr_kernels.recording import record
        >>> twice = record(lambda x: torch.relu(x) * 2, torch.zeros(3))
        >>> _ = twice.input.copy_(torch.tensor([-1.0, 0.0, 2.0])); twice.run(); twice.output
        tensor([0., 0., 4.])
    """
    with torch.inference_mode(False), torch.no_grad():
        # Of its own: what the function does in place is not done to the example.
        given = torch.empty_strided(example.shape, example.stride(), dtype=example.dtype).copy_(example)
        recorder = Recorder(given)
        if "torch._dynamo" in sys.modules:  # compiled parts run as they were written
            function = torch._dynamo.disable(function)  # type: ignore[no-untyped-call]
        with Reading(recorder), recorder:
            result = function(given)
        if not isinstance(result, Tensor):
            raise NotRecordableError(f"it gives a {type(result).__name__}, not one tensor")
        return Recording(recorder, recorder.view(result))


def _into(operator: Any) -> tuple[Any, str] | None:
    """The overload that writes the one result into an argument, and that argument's name."""
    wanted = [(each.name, str(each.type)) for each in operator._schema.arguments]
    for name in operator.overloadpacket.overloads():
        overload = getattr(operator.overloadpacket, name)
        outs = [each for each in overload._schema.arguments if each.is_out]
        others = [(each.name, str(each.type)) for each in overload._schema.arguments if not each.is_out]
        if len(outs) == 1 and str(outs[0].type) == "Tensor" and others == wanted:
            return overload, outs[0].name
    return None


def _copied(call: Callable[[], Any], results: Sequence[Tensor]) -> None:
    for kept, each in zip(results, all_of(call(), Tensor), strict=True):
        kept.copy_(each)
