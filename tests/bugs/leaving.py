"""The choices of an architecture, and exports that are not the model."""

from . import Bug

BUGS = [
    Bug(
        "the rotation turned the other way for one half",
        "light_llm/layers/positions.py",
        "second * cos + first * sin), dim",
        "second * cos - first * sin), dim",
        "tests/test_layers.py",
    ),
    Bug(
        "neighbours turned in pairs instead of halves",
        "light_llm/layers/positions.py",
        "first, second = x.chunk(2, dim=-1)",
        "first, second = x[..., ::2], x[..., 1::2]",
        "tests/test_families.py",
    ),
    Bug(
        "slow waves kept and quick ones slowed down for a longer context",
        "light_llm/layers/positions.py",
        "kept * theta + (1 - kept) * theta / config.rope_factor",
        "(1 - kept) * theta + kept * theta / config.rope_factor",
        "tests/test_families.py",
    ),
    Bug(
        "RMSNorm's gradient with its second part added",
        "light_llm/layers/norms.py",
        "d_u.addcmul_(u, shared, value=-1)",
        "d_u.addcmul_(u, shared, value=1)",
        "tests/test_layers.py",
    ),
    Bug(
        "the gate and the value of SwiGLU changed about",
        "light_llm/layers/mlps.py",
        "F.silu(gate) * value",
        "F.silu(value) * gate",
        "tests/test_families.py",
    ),
    Bug(
        "shared heads dealt out in turn",
        "light_llm/layers/heads.py",
        "x.repeat_interleave(H // x.size(1), dim=1)",
        "x.repeat(1, H // x.size(1), 1, 1)",
        "tests/test_families.py",
    ),
    Bug(
        "a window that is one token too long",
        "light_llm/layers/heads.py",
        "(back < window) & (back >= 0)",
        "(back <= window) & (back >= 0)",
        "tests/test_layers.py",
    ),
    Bug(
        "queries normed after they were turned, and keys not at all",
        "light_llm/model.py",
        "rotate(self.k_norm(k).to(v.dtype), turn)",
        "rotate(k, turn)",
        "tests/test_families.py",
    ),
    Bug(
        "an untied head that is written with, and not learnt",
        "light_llm/model.py",
        "self.wte.weight if self.lm_head is None else self.lm_head.weight",
        "self.wte.weight",
        "tests/test_choices.py",
    ),
    Bug(
        "a Conv1D that was not transposed",
        "light_llm/export/hf_layout.py",
        'state[f"h.{layer}.{name}"].T.contiguous()',
        'state[f"h.{layer}.{name}"].contiguous()',
        "tests/test_export_hf.py",
    ),
    Bug(
        "llama.cpp's rows of queries left in halves",
        "light_llm/export/gguf_parts.py",
        "return halves.transpose(1, 2).reshape(rows.shape)",
        "return halves.reshape(rows.shape)",
        "tests/test_export_gguf.py",
    ),
    Bug(
        "an export that is kept although it differs",
        "light_llm/export/verify.py",
        "if not largest <= limit:",
        "if largest > limit * 1e9:",
        "tests/test_export_hf.py",
    ),
    Bug(
        "a program that does not run here taken for an export that differs",
        "light_llm/export/write.py",
        "    except NotHere as error:\n        return None",
        "    except ZeroDivisionError as error:\n        return None",
        "tests/test_llama.py",
    ),
    Bug(
        "Ctrl-C raised within an import",
        "light_llm/cli/signals.py",
        "        if is_importing(frame):",
        "        if is_importing(None):",
        "tests/test_cli.py -k import",
    ),
]
