"""Captured CUDA graphs, by the driver (libcuda): what one consists of, and what is run of it.

torch offers a graph's handle (`CUDAGraph(keep_graph=True).raw_cuda_graph()`) and one executable of it. Reading needs a
driver of CUDA 12.4 or newer; what cannot be read is None, never an error.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from functools import cache
from typing import Any, NamedTuple

_KERNEL = 0  # CU_GRAPH_NODE_TYPE_KERNEL
_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_PROGRAMMATIC = 1  # CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC
_INVALID_VALUE = 1  # CUDA_ERROR_INVALID_VALUE
_ATTRIBUTE_BYTES = 64  # of CUlaunchAttributeValue
_EDGE_BYTES = 8  # of CUgraphEdgeData: from_port, to_port, type, five that are reserved

Size3 = tuple[int, int, int]


class Kernel(NamedTuple):
    """One kernel launch of a graph."""

    function: int  # CUfunction
    name: str  # mangled
    grid: Size3
    block: Size3
    cluster: Size3  # zeros: none
    shared: int  # dynamic shared memory in bytes
    parameters: tuple[bytes, ...] | None  # as they lie in memory; None where they cannot be read


class Graph(NamedTuple):
    """Kernels in the order of capture; edges as (number of a kernel, number of its successor, type)."""

    kernels: tuple[Kernel, ...]
    edges: tuple[Size3, ...]

    @property
    def overlaps(self) -> bool:
        """Whether a kernel may start before its predecessor has ended: programmatic dependent launch."""
        return any(kind == _PROGRAMMATIC for _, _, kind in self.edges)


class _UnreadableError(Exception):
    """The driver lacks a function, refuses an answer, or the graph holds something else than kernels."""


class _KernelParams(Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2"""

    _fields_ = (
        ("func", c_void_p),
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("parameters", POINTER(c_void_p)),
        ("extra", c_void_p),
        ("kern", c_void_p),
        ("ctx", c_void_p),
    )


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _status(name: str, *arguments: Any) -> int:
    """Status of a call of the driver."""
    try:
        function: Callable[..., int] = getattr(_driver(), name)
    except (OSError, AttributeError) as error:
        raise _UnreadableError(str(error)) from None
    return int(function(*arguments))


def _call(name: str, *arguments: Any) -> None:
    if status := _status(name, *arguments):
        raise _UnreadableError(f"{name}: {status}")


class Executable:
    """A graph made ready to run, with device memory of its own: a graph can have many, side by side.

    graph: its handle (cudaGraph_t), with the graph's context current; memory that it uses is the caller's to keep.
    RuntimeError where the driver refuses.
    """

    def __init__(self, graph: int) -> None:
        self._handle = c_void_p()
        _require("cuGraphInstantiateWithFlags", byref(self._handle), c_void_p(graph), c_ulonglong(0))
        weakref.finalize(self, _status, "cuGraphExecDestroy", self._handle).atexit = False

    def launch(self, stream: int) -> None:
        """Enqueue it on `stream` (cudaStream_t)."""
        _require("cuGraphLaunch", self._handle, c_void_p(stream))


def _require(name: str, *arguments: Any) -> None:
    try:
        _call(name, *arguments)
    except _UnreadableError as error:
        raise RuntimeError(f"the driver runs no graph: {error}") from None


def read(graph: int) -> Graph | None:
    """The graph with the handle `graph` (cudaGraph_t); None where it cannot be read, or holds more than kernels."""
    try:
        nodes = _nodes(graph)
        return Graph(tuple(map(_kernel, nodes)), _edges(graph, nodes))
    except _UnreadableError:
        return None


def overlaps(graph: int) -> bool:
    """Whether kernels of the graph with the handle `graph` may overlap: also where that cannot be read."""
    try:
        return any(kind == _PROGRAMMATIC for _, _, kind in _edges(graph, _nodes(graph)))
    except _UnreadableError:
        return True


def _nodes(graph: int) -> list[int]:
    count = c_size_t()
    _call("cuGraphGetNodes", c_void_p(graph), None, byref(count))
    nodes = (c_void_p * count.value)()
    _call("cuGraphGetNodes", c_void_p(graph), nodes, byref(count))
    return [node or 0 for node in nodes]


def _edges(graph: int, nodes: list[int]) -> tuple[Size3, ...]:
    count = c_size_t()
    _call("cuGraphGetEdges_v2", c_void_p(graph), None, None, None, byref(count))
    before, after = (c_void_p * count.value)(), (c_void_p * count.value)()
    data = (ctypes.c_ubyte * (_EDGE_BYTES * count.value))()
    _call("cuGraphGetEdges_v2", c_void_p(graph), before, after, data, byref(count))
    number = {node: index for index, node in enumerate(nodes)}
    kinds = [data[_EDGE_BYTES * edge + 2] for edge in range(count.value)]
    ends = zip(before, after, kinds, strict=True)
    return tuple(sorted((number[start or 0], number[end or 0], kind) for start, end, kind in ends))


def _kernel(node: int) -> Kernel:
    kind = c_int()
    _call("cuGraphNodeGetType", c_void_p(node), byref(kind))
    if kind.value != _KERNEL:
        raise _UnreadableError(f"a node of type {kind.value}")
    params = _KernelParams()
    _call("cuGraphKernelNodeGetParams_v2", c_void_p(node), byref(params))
    function = _function(params)
    return Kernel(
        function=function,
        name=_name(function),
        grid=_size3(params.grid),
        block=_size3(params.block),
        cluster=_cluster(node),
        shared=params.shared,
        parameters=_parameters(function, params),
    )


def _size3(values: Any) -> Size3:
    return int(values[0]), int(values[1]), int(values[2])


def _function(params: _KernelParams) -> int:
    """The CUfunction of a node; kernels of the runtime library's kind may be known by their CUkernel alone."""
    if params.func:
        return int(params.func)
    function = c_void_p()
    _call("cuKernelGetFunction", byref(function), c_void_p(params.kern))
    return function.value or 0


def _name(function: int) -> str:
    name = c_char_p()
    _call("cuFuncGetName", byref(name), c_void_p(function))
    return (name.value or b"").decode()


def _cluster(node: int) -> Size3:
    value = (c_uint * (_ATTRIBUTE_BYTES // 4))()
    _call("cuGraphKernelNodeGetAttribute", c_void_p(node), c_int(_CLUSTER_DIMENSION), value)
    return _size3(value)


def _parameters(function: int, params: _KernelParams) -> tuple[bytes, ...] | None:
    """The bytes of each parameter; None where they were given as one buffer, or their sizes are unknown."""
    if not params.parameters:
        return None
    found: list[bytes] = []
    offset, size = c_size_t(), c_size_t()
    while not (
        status := _status("cuFuncGetParamInfo", c_void_p(function), c_size_t(len(found)), byref(offset), byref(size))
    ):
        address = params.parameters[len(found)]
        if not address:
            return None
        found.append(ctypes.string_at(address, size.value))
    return tuple(found) if status == _INVALID_VALUE else None  # there are no more of them
