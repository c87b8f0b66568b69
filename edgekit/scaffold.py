"""A first ``edgekit.toml``: commented, valid as it stands, and never written over another."""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.errors import InputError, OutputError

FILE = "edgekit.toml"

TEMPLATE = """\
# What edgekit builds, from which data, and what the result must hold.
#
#     edgekit build --target raspberry-pi-4-litert        (edgekit targets lists them all)
#
# Paths are relative to this file. An unknown key is an error.

[model]
# net.onnx, net.pt2, or package.module:callable
source = {source}
# weights = "net.safetensors"             # for a callable: safetensors, or a state_dict

# What the model's inputs want. The name is the input's own; leave out what the model already says.
# [model.inputs.image]
# shape = [1, 3, 224, 224]                # of the source model
# mean = [0.485, 0.456, 0.406]            # of values in [0, 1], per channel
# std = [0.229, 0.224, 0.225]
# channels = "RGB"                        # or "BGR", "GRAY"
# resize = 256                            # the shorter side
# crop = 224                              # from the centre

[calibration]
# .npz or .npy, a folder of images, or module:iterable; they must look like real inputs
data = {calibration}
samples = 256                             # a few hundred are enough
range = "mse"                             # or "minmax", "moving-average", "percentile", "entropy", "auto"
equalize = true                           # channels are scaled so that all use their tensor's integers
rounding = "reconstruct"                  # weights by what they multiply; or "nearest", which is done at once
# method = "auto"                         # or: the cheapest of these with which the accuracy gates hold

# Held-out data with labels; without it the accuracy gates fail.
# [evaluation]
# data = "test.npz"                       # arrays "images" and "labels", or a folder a class
# metric = "top1"                         # or "top5", "agreement", module:function

# The build fails (exit code 1) when one of these does not hold.
[gates]
float_ops = 0                             # every op in integers
# size = "320 KB"
# accuracy_drop = 0.005                   # half a point
# latency_p50 = "4 ms"                    # counts only when timed on the target's kind of machine

# [gates.raspberry-pi-4-litert]           # for one target
# size = "300 KB"

# Reports that are committed, TARGET.json of each: no artifact may cost more than they say.
# [baseline]
# folder = "baselines"                    # the first build whose gates hold writes into it
# size = 0.02                             # may grow by 2 %; 1 % where nothing is said

# Where edgekit bench, verify and doctor run with --device pi.
# [devices.pi]
# transport = "ssh"                       # or "adb", "exec", "local"
# host = "pi@raspberrypi.local"
# python = "~/edge/bin/python"            # with numpy and ai-edge-litert or onnxruntime
"""


def scaffold(folder: Path, model: str | None = None, calibration: str | None = None) -> Path:
    """Write ``folder/edgekit.toml``, making the folder; the file's path.

    Raises InputError when there is one already, OutputError when it cannot be written.
    """
    path = folder / FILE
    text = TEMPLATE.format(source=_quoted(model or "net.onnx"), calibration=_quoted(calibration or "calib.npz"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        what = path if path.exists() else folder
        raise InputError(f"{what}: exists already; nothing was written") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def _quoted(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, which wants DEL escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
