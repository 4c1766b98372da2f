"""The one-token step of autoregressive sampling compiled for one batch size; on a GPU replayed as a CUDA graph.

A step is thousands of small operations, which a GPU finishes faster than Python can ask for them. Compiled, they are
fewer; in a graph, one launch asks for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from open_magvit2.common.arguments import integer
from open_magvit2.generators.autoregressive import AutoregressiveGenerator
from open_magvit2.generators.drawing import FiniteLogits, SubTokenSampling
from open_magvit2.generators.sampling import Sampling, next_token, prepare

_MOST_GRAPHS = 64  # of one process: PyTorch counts a graph for each settings and batch size, and allows 8
_WARM_UP = 3  # calls before a capture, in which kernels are loaded and libraries take their workspaces


class CompiledSampler:
    """A `protocols.Generator` that samples from an autoregressive one, in batches of one size.

    The first call compiles, for minutes with a large model; others replay. Caches stay allocated between calls. A step
    has one shape whatever the position: attention runs over the whole cache under a mask.

    Args:
        generator: in eval mode; its weights must stay where they are.
        batch_size: of every step; fewer images are filled up, more are split.
        backend: of `torch.compile`.
    """

    def __init__(self, generator: AutoregressiveGenerator, batch_size: int, backend: str = "inductor") -> None:
        integer(1, batch_size=batch_size)
        self.generator, self.batch_size, self.backend = generator, batch_size, backend
        self.codebook_size, self.grid, self.num_classes = generator.codebook_size, generator.grid, generator.num_classes
        self.make_settings = generator.make_settings
        self._steps: dict[Any, _Step] = {}

    @torch.inference_mode(False)  # tensors that stay between calls must serve callers in either mode
    @torch.no_grad()
    def generate(self, labels: Tensor, seeds: Sequence[int], settings: Sampling | None = None) -> Tensor:
        """See `protocols.Generator`; the tokens are those of `sampling.sample`, up to rounding."""
        settings = Sampling() if settings is None else settings
        rows, uniform, scales = prepare(self.generator, labels, seeds, settings)
        number, copies = len(labels), len(rows) // len(labels)
        done = []
        for start in range(0, number, self.batch_size):
            stop = min(start + self.batch_size, number)
            chosen = torch.arange(start, start + self.batch_size, device=rows.device).clamp_max(number - 1)
            step = self._step(settings, copies)
            step.begin(rows.view(copies, number)[:, chosen].flatten(), uniform[:, chosen], scales)
            for _ in range(self.generator.num_tokens):
                step.run()
            step.finite.check()
            done.append(self.generator.factorization.join(step.sub_tokens)[: stop - start])
        return torch.cat(done).unflatten(1, self.grid)

    def _step(self, settings: Sampling, copies: int) -> "_Step":
        """The step of some settings. Guidance scales are its inputs: a sweep over them compiles once."""
        groups = [replace(group, guidance=1.0) for group in settings.of_groups(len(self.generator.bits))]
        key = (*groups, settings.greedy, copies)
        if key not in self._steps:
            self._steps[key] = _Step(self, groups, settings.greedy, copies)
        return self._steps[key]


class _Step:
    """One step over tensors that stay where they are: what a graph reads and writes.

    Args:
        sampler: what it belongs to.
        groups: settings of the sub-tokens.
        greedy: instead of drawing.
        copies: 2 with guidance, else 1.
    """

    def __init__(self, sampler: CompiledSampler, groups: Sequence[SubTokenSampling], greedy: bool, copies: int) -> None:
        self.generator, batch = sampler.generator, sampler.batch_size
        number, num_groups, device = self.generator.num_tokens, len(groups), self.generator.device
        self.caches = caches = self.generator.make_caches(batch * copies)
        weight = self.generator.class_embedding.weight
        self.features = torch.zeros(batch * copies, 1, self.generator.width, dtype=weight.dtype, device=device)
        self.uniform = torch.zeros(number, batch, num_groups, dtype=torch.float64, device=device)
        self.scales = torch.zeros(number, num_groups, dtype=torch.float64, device=device)
        self.sub_tokens = torch.zeros(batch, number, num_groups, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.finite = FiniteLogits(device)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
        self.generator.rotary(self.features)  # made before the step is traced
        self.run: Callable[[], None] = torch.compile(
            lambda: self._advance(caches, groups, greedy), fullgraph=True, dynamic=False, backend=sampler.backend
        )
        if device.type == "cuda":
            self.run = self._captured(self.run)

    def begin(self, labels: Tensor, uniform: Tensor, scales: Tensor) -> None:
        """Set what `prepare` knows of a batch."""
        self.features.copy_(self.generator.class_embedding(labels)[:, None])
        self.uniform.copy_(uniform)
        self.scales.copy_(scales)
        self.position.zero_()
        self.finite.so_far.fill_(True)
        for cache in self.caches:  # masked positions count 0 times what an earlier batch left there, and 0 x NaN is NaN
            cache.values.zero_()

    def _advance(self, caches: tuple[Any, Any], groups: Sequence[SubTokenSampling], greedy: bool) -> None:
        uniform, scales = self.uniform[self.position][0], self.scales[self.position][0]
        rest = (self.position, uniform, scales, groups, greedy, self.finite)
        chosen, features = next_token(self.generator, caches, self.features, *rest)
        self.sub_tokens.index_copy_(1, self.position, chosen[:, None])
        self.features.copy_(features)
        self.position.add_(1)

    def _captured(self, step: Callable[[], None]) -> Callable[[], None]:
        """The step as a CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                step()
                self.position.zero_()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay
