"""Where the packed keys and values of recordings lie: one after the other, or in places of a pool of all layers.

    pool   [ place 0: layer 0 [ head 0 | head 1 | .. ] layer 1 [ .. ] .. | place 1: .. ]

A place holds all layers of one recording, so a pool takes memory as its places are filled.
"""

from extensibility import InputTensor


def every_place(audios: Int, heads: Int) -> List[Int]:
    """The first head of each of `audios` recordings that follow each other."""
    var places = List[Int]()
    for audio in range(audios):
        places.append(audio * heads)
    return places^


def places_in_pool(
    audios: InputTensor[dtype=DType.int64, rank=1, ...],
    rows: InputTensor[dtype=DType.float32, rank=3, ...],
    layer: Int,
    count: Int,
    layers: Int,
    heads: Int,
    head_dim: Int,
) raises -> List[Int]:
    """The first head of a layer of each recording that goes into a pool.

    Args:
        audios: Where each goes, [n].
        rows: Keys or values of these recordings, [n, frames, heads * head_dim].
        layer: Of the decoder.
        count: Places of the pool.
        layers: Of the pool.
        heads: Of the pool.
        head_dim: Floats of a head.

    Raises:
        The pool has no such place or layer, or holds other heads.
    """
    if rows.dim_size(0) != audios.dim_size(0) or rows.dim_size(2) != heads * head_dim or not 0 <= layer < layers:
        raise Error("whisper2max.audio_pool: the pool holds other layers or heads, or places of other recordings")
    var places = List[Int]()
    for i in range(audios.dim_size(0)):
        var audio = Int(audios[i])
        if not 0 <= audio < count:
            raise Error("whisper2max.audio_pool: a place lies outside of the pool")
        places.append((audio * layers + layer) * heads)
    return places^
