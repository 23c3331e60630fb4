"""The resizes of ImageNet images: of the paper's script, of today's TensorFlow, and of torchvision."""

from arada.data.sources.tfds import import_tensorflow

# The values of `config.data.resize`. Reduced to 224 pixels by the two bicubic ones, scikit-learn's two photographs
# differ by 2.6 and 7.1 of 255 grey levels on average. Neither smooths before it makes an image smaller, and both
# overshoot.
#   "tf1_bicubic": TF1's `tf.image.resize_bicubic`, which edward2's script calls. Keys' kernel with a = -3/4; pixel i of
#       the result lies at i * scale of the source.
#   "tf2_bicubic": TF2's `tf.image.resize`. a = -1/2; pixel i lies at (i + 1/2) * scale - 1/2.
#   "bilinear": with smoothing, as in torchvision.
RESIZES = ("tf1_bicubic", "tf2_bicubic", "bilinear")


def resized(image, shape, how: str):
    """A TensorFlow function: image uint8[H, W, C] to uint8[*shape, C], by one of `RESIZES`, rounded."""
    tf = import_tensorflow()
    if how == "tf1_bicubic":
        image = tf.compat.v1.image.resize_bicubic(image[None], shape)[0]
    else:
        image = tf.image.resize(image, shape, method=how.removeprefix("tf2_"), antialias=how == "bilinear")
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
