"""Decides whether an error of a script, run with fake tensors on a processor, means that the code is wrong anywhere.

Promises: only errors on a fixed list count. An error that fake tensors or the missing GPU may have caused does not. The
patterns match the messages of torch 2.13 and its fake tensors; an error with another message does not count.
"""

from __future__ import annotations

import ast
import re
import traceback
from pathlib import Path

_PLAIN = (
    AttributeError,
    NameError,
    TypeError,
    IndexError,
    KeyError,
    AssertionError,
    ValueError,
    ZeroDivisionError,
    ImportError,
)
KINDS = (RuntimeError, *_PLAIN)

_SHAPES = (
    r"must have same reduction dim",
    r"shapes cannot be multiplied",
    r"Expected size for first two dimensions of batch2",
    r"must match the (?:size of tensor|existing size)",
    r"is invalid for input of size",
    r"Attempting to broadcast a dimension of length",
    r"doesn't match the broadcast shape",
    r"[Ss]izes of tensors must match",
    r"Number of dimensions of tensors must match|must have same number of dimensions",
    r"stack expects each tensor to be equal size",
    r"number of dimensions in the tensor input does not match the length of the desired ordering",
    r"Expected target size",
    r"Given normalized_shape=",
    r"Given groups=\d+, weight of size",
    r"split_with_sizes expects split_sizes",
    r"unflatten: Provided sizes",
    r"does not match at dimension \d+ expected index",
    r"Expected index .* to be no larger than",
    r"einsum\(\): ",
    r"exceeds dimension size",
    r"Expected 1-D argument",
    r"input tensor must have at least 2 dimensions",
    r"Number of dimensions of repeat dims can not be smaller",
    r"inconsistent tensor size",
    r"with more than one value is ambiguous|elements cannot be converted to Scalar",
    r"in loading state_dict for",
    r"Halving dimension must be even",
    r"Padding length should be",
    r"Number of heads in key and value must divide",
    r"not in range for dimension",
)
_GRADIENTS = (
    r"a leaf Variable that requires grad is being used in an in-place operation",
    r"does not require grad and does not have a grad_fn",
    r"Trying to backward through the graph a second time",
    r"grad can be implicitly created only for scalar outputs",
    r"attempting to assign a gradient of size",
    r"returned an invalid gradient at index",
    r"returned an incorrect number of gradients",
    r"can require gradients",
    r"floating point dtype can require gradients",
    r'missing the required "forward" function',
)
_TYPES = (
    r"one of the following scalar types: Long, Int",
    r"Expected dtype int32/int64 for index",
    r"expected predicate to be bool",
    r"could not infer output dtype",
)
_WRONG = re.compile("|".join(_SHAPES + _GRADIENTS + _TYPES))
# On a GPU these may not fail: autocast changes types, and other kernels keep other tensors for the backward pass.
_WRONG_ON_A_PROCESSOR = re.compile(
    r"to have the same dtype|Input dtypes must be the same|expected dtype torch\.\w+ for"
    r"|modified by an inplace operation"
)
_OF_A_GPU = re.compile(r"\bcuda\b|nvidia|triton|\bgpu\b|flash", re.IGNORECASE)
_OF_FAKES = re.compile(
    r"tensor subclass|numpy|Cannot view a tensor"  # strides differ from a kernel's
    r"|FakeTensor(?!' object (?:has no attribute|is not callable)|' and '|'$)"  # a real tensor might work there
)
_FAKE_TENSORS = "torch._subclasses"
_TORCH = re.compile(
    r"/torch/(?:nn/|optim/|autograd/|functional\.py|__init__\.py|_tensor\.py|_ops\.py|_prims_common/|_refs/"
    r"|_meta_registrations\.py|utils/_contextlib\.py)"
)
_SAME_EVERYWHERE = ("prepare", "torch")


def means_wrong_code(error: BaseException, source: Path, *, on_gpu: bool) -> bool:
    """Return whether an error means wrong code. `source` is the train.py; `on_gpu`: a trial would run on a GPU."""
    words = str(error)
    if _is_doubtful(error) or _OF_A_GPU.search(words) or _OF_FAKES.search(words):
        return False
    if isinstance(error, RuntimeError):
        return bool(_WRONG.search(words) or (not on_gpu and _WRONG_ON_A_PROCESSOR.search(words)))
    if on_gpu and isinstance(error, NameError):
        return error.name is not None and error.name not in _bound(source)
    if on_gpu and isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] in _SAME_EVERYWHERE
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    own = Path(where) == source or Path(where).parent == Path(__file__).parent  # or ours in place of prepare's
    return own or bool(_TORCH.search(where)) or isinstance(error, ImportError)


def _is_doubtful(error: BaseException) -> bool:
    """Return whether the error, or one that it came from, is an error of fake tensors."""
    chain: BaseException | None = error
    while chain is not None:
        if type(chain).__module__.startswith(_FAKE_TENSORS):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _bound(source: Path) -> set[str]:
    """Return every name that the file assigns, perhaps only on a GPU."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_bytes().decode())):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=asname):
                names.add(asname or name.partition(".")[0])
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
    return names
