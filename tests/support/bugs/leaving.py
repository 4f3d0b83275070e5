"""The choices of an architecture, and exports that are not the model."""

from . import Bug

BUGS = [
    Bug(
        "the rotation turned the other way for one half",
        "layers: rotate",
        "second * cos + first * sin), dim",
        "second * cos - first * sin), dim",
        "tests/layers/test_layers.py",
    ),
    Bug(
        "neighbours turned in pairs instead of halves",
        "layers: rotate",
        "first, second = x.chunk(2, dim=-1)",
        "first, second = x[..., ::2], x[..., 1::2]",
        "tests/layers/test_families.py",
    ),
    Bug(
        "slow waves kept and quick ones slowed down for a longer context",
        "layers: frequencies",
        "unscaled * theta + (1 - unscaled) * theta / config.rope_factor",
        "(1 - unscaled) * theta + unscaled * theta / config.rope_factor",
        "tests/layers/test_families.py",
    ),
    Bug(
        "RMSNorm's gradient with its second part added",
        "layers: _RMSNorm.backward",
        "d_u.addcmul_(u, mean, value=-1)",
        "d_u.addcmul_(u, mean, value=1)",
        "tests/layers/test_layers.py",
    ),
    Bug(
        "the gate and the value of SwiGLU changed about",
        "layers: SwiGLU.forward",
        "F.silu(gate) * value",
        "F.silu(value) * gate",
        "tests/layers/test_families.py",
    ),
    Bug(
        "shared heads dealt out in turn",
        "layers: repeat_kv",
        "x.repeat_interleave(H // x.size(1), dim=1)",
        "x.repeat(1, H // x.size(1), 1, 1)",
        "tests/layers/test_families.py",
    ),
    Bug(
        "a window that is one token too long",
        "layers: sliding_window_mask",
        "(distance < window) & (distance >= 0)",
        "(distance <= window) & (distance >= 0)",
        "tests/layers/test_layers.py",
    ),
    Bug(
        "queries normed after they were turned, and keys not at all",
        "model: SelfAttention.forward",
        "rotate(self.k_norm(k).to(v.dtype), angles)",
        "rotate(k, angles)",
        "tests/layers/test_families.py",
    ),
    Bug(
        "an untied head that is written with, and not learnt",
        "model: LightLLM.head_weight",
        "self.wte.weight if self.lm_head is None else self.lm_head.weight",
        "self.wte.weight",
        "tests/layers/test_choices.py",
    ),
    Bug(
        "a Conv1D that was not transposed",
        "interop: to_hf_tensors",
        "piece.T.contiguous() if transposed else piece",
        "piece",
        "tests/interop/test_export_hf.py",
    ),
    Bug(
        "llama.cpp's rows of queries left in halves",
        "interop: interleave",
        "return halves.transpose(1, 2).reshape(rows.shape)",
        "return halves.reshape(rows.shape)",
        "tests/interop/test_export_gguf.py",
    ),
    Bug(
        "an export that is kept although it differs",
        "interop: _compare_logits",
        "if not max_error <= limit:",
        "if max_error > limit * 1e9:",
        "tests/interop/test_export_hf.py",
    ),
    Bug(
        "a program that does not run here taken for an export that differs",
        "interop: _verify",
        "    except MissingDependency as error:\n        if without_program",
        "    except ZeroDivisionError as error:\n        if without_program",
        "tests/interop/test_llama.py",
    ),
]
