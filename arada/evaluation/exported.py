"""A trained network as one file, for programs without this project."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath
from jax import export as jax_export

from arada.errors import UserError
from arada.evaluation import predictions
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runtime import files

# Where a program of `jax.export` runs.
PLATFORMS = ("cpu", "cuda", "tpu")


def export(run: epath.PathLike, file: epath.PathLike, *, temperature: bool = False, dtype: str = "uint8") -> epath.Path:
    """Writes the network of a run, including its normalisation, to `file`; returns the file's path.

    A .safetensors file holds only the arrays, by path: params/..., batch_stats/..., normalization/.... Any other file
    holds a program: `jax.export.deserialize(bytes).call(images)` takes images [B, H, W, C], any B, and returns logits
    float32[B, Z], on CPU, GPU and TPU. The logits of an ensemble are the logarithm of its mean probabilities.

    Args:
      run: the folder of a trained run.
      file: the file to write.
      temperature: whether to divide the logits by the temperature fitted on the run's validation predictions.
      dtype: of the images: "uint8", or "float32" in [0, 1].

    Raises UserError for a run without weights, or with `temperature` for a run without predictions.
    """
    run, file = files.absolute(run), files.absolute(file)
    logits_fn, variables = trained.load(run)
    if file.suffix == ".safetensors":
        if temperature:
            raise UserError(
                f"{file}: a .safetensors file holds only weights; for temperature=True choose another file ending"
            )
        arrays = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        files.write_bytes(file, safetensors.numpy.save(arrays))
        return file
    if dtype not in ("uint8", "float32"):
        raise UserError(f"dtype is {dtype!r}; it must be 'uint8', or 'float32' for images in [0, 1]")
    divisor = _temperature(run) if temperature else 1.0

    def logits(images):
        return (logits_fn(variables, images) / divisor).astype(jnp.float32)

    shape = (*jax_export.symbolic_shape("batch"), *workdirs.stored_config(run).data.image_shape)
    program = jax_export.export(jax.jit(logits), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, dtype))
    files.write_bytes(file, bytes(program.serialize()))
    return file


def _temperature(run: epath.Path) -> float:
    """The temperature of a run, fitted on the validation predictions of its workdir."""
    directory = run.parents[2] / "predictions" / run.parent.name / run.name
    fitted = predictions.fitted(directory)
    if not fitted:
        raise UserError(f"{directory} has no validation predictions to fit a temperature; run --stage=evaluate first")
    return fitted["temperature"].temperature
