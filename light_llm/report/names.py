"""How layers and heads are called."""


def head_name(layer: int, head: int | None) -> str:
    """Layers and heads are counted from 0, as in the code.

    >>> head_name(3, 1), head_name(3, None)
    ('layer 3, head 1', 'layer 3')
    """
    return f"layer {layer}" if head is None else f"layer {layer}, head {head}"
