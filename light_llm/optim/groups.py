"""Parameter groups: the role of a parameter, by the module that owns it. Rules about decay are rules about roles."""

from torch import nn

MATRIX, TABLE, VECTOR = "matrix", "table", "vector"


def group_parameters(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Group the trainable parameters by role and name: weights of Linear layers, lookup tables, and vectors.

    Vectors are biases and gains. Each parameter occurs once: a head that is tied to a table is that table.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    roles: dict[str, dict[str, nn.Parameter]] = {MATRIX: {}, TABLE: {}, VECTOR: {}}
    for name, parameter in model.named_parameters():  # yields a shared parameter once, under its first name
        if parameter.requires_grad:
            role = TABLE if id(parameter) in tables else VECTOR if parameter.ndim < 2 else MATRIX
            roles[role][name] = parameter
    return roles
