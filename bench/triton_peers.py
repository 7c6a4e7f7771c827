"""The operators of the GPU bench as one writes them in Triton; imported only where Triton is.

Products go through `tl.dot` in IEEE float32 (no TF32), in tiles that Triton's own autotuner picks.
Rows are held by one program each, as long as they fit; the size of a program grows with the row.
"""

# mypy: ignore-errors
import triton
import triton.language as tl

LONGEST = 65536  # elements of a row that one program holds


# ----------------------------------------------------------------------------- products
TILES = [
    triton.Config({"BM": m, "BN": n, "BK": k, "GROUP": 8}, num_warps=w, num_stages=s)
    for m, n, k, w, s in (
        (128, 128, 16, 8, 3), (128, 64, 32, 4, 3), (64, 64, 32, 4, 4), (128, 128, 32, 8, 2),
        (16, 64, 64, 4, 4), (32, 32, 64, 4, 3),
    )
]  # fmt: skip


@triton.autotune(configs=TILES, key=["m", "n", "k"])
@triton.jit
def product(
    a, b, c, m, n, k, sam, sak, sbk, sbn, scm, scn, sab, sbb, scb,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tile, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    across, down = tl.cdiv(n, BN), tl.cdiv(m, BM)
    group = tile // (GROUP * across)
    first = group * GROUP
    rows = min(down - first, GROUP)
    row = first + tile % (GROUP * across) % rows
    column = tile % (GROUP * across) // rows
    i = row * BM + tl.arange(0, BM)
    j = column * BN + tl.arange(0, BN)
    r = tl.arange(0, BK)
    left = a + batch * sab + (i % m)[:, None].to(tl.int64) * sam + r[None, :] * sak
    right = b + batch * sbb + r[:, None].to(tl.int64) * sbk + (j % n)[None, :].to(tl.int64) * sbn
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for at in range(tl.cdiv(k, BK)):
        x = tl.load(left, mask=r[None, :] < k - at * BK, other=0.0)
        y = tl.load(right, mask=r[:, None] < k - at * BK, other=0.0)
        total = tl.dot(x, y, total, input_precision="ieee")
        left += BK * sak
        right += BK * sbk
    out = c + batch * scb + i[:, None].to(tl.int64) * scm + j[None, :] * scn
    tl.store(out, total.to(c.dtype.element_ty), mask=(i[:, None] < m) & (j[None, :] < n))


# ----------------------------------------------------------------------------- rows
@triton.jit
def softmax(out, x, columns, size: tl.constexpr, log: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, size)
    inside = at < columns
    v = tl.load(x + row * columns + at, mask=inside, other=-float("inf")).to(tl.float32)
    v = v - tl.max(v, 0)
    e = tl.exp(v)
    total = tl.sum(e, 0)
    y = v - tl.log(total) if log else e / total
    tl.store(out + row * columns + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def cross_entropy(out, x, label, columns, size: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, size)
    v = tl.load(x + row * columns + at, mask=at < columns, other=-float("inf")).to(tl.float32)
    picked = tl.load(x + row * columns + tl.load(label + row)).to(tl.float32)
    top = tl.max(v, 0)
    loss = top + tl.log(tl.sum(tl.exp(v - top), 0)) - picked
    tl.store(out + row, loss.to(out.dtype.element_ty))


@triton.jit
def norm(out, x, gamma, beta, columns, eps, size: tl.constexpr, centred: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, size)
    inside = at < columns
    v = tl.load(x + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    if centred:
        v = tl.where(inside, v - tl.sum(v, 0) / columns, 0.0)
    y = v * tl.rsqrt(tl.sum(v * v, 0) / columns + eps)
    y = y * tl.load(gamma + at, mask=inside, other=0.0).to(tl.float32)
    if centred:
        y = y + tl.load(beta + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def add_rmsnorm(added, out, x, r, gamma, columns, eps, size: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, size)
    inside = at < columns
    v = tl.load(x + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    v += tl.load(r + row * columns + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(added + row * columns + at, v.to(added.dtype.element_ty), mask=inside)
    y = v * tl.rsqrt(tl.sum(v * v, 0) / columns + eps)
    y = y * tl.load(gamma + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def row_sum(out, x, columns, size: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, size)
    v = tl.load(x + row * columns + at, mask=at < columns, other=0.0).to(tl.float32)
    tl.store(out + row, tl.sum(v, 0).to(out.dtype.element_ty))


# ----------------------------------------------------------------------------- elements
@triton.jit
def add_mul(out, a, b, c, n, size: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = at < n
    x = tl.load(a + at, mask=inside)
    y = (x + tl.load(b + at, mask=inside)) * tl.load(c + at, mask=inside) - x
    tl.store(out + at, y, mask=inside)


@triton.jit
def silu_mul(out, a, z, n, size: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    inside = at < n
    x = tl.load(a + at, mask=inside).to(tl.float32)
    y = x * tl.sigmoid(x) * tl.load(z + at, mask=inside).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def transpose(out, x, m, n, size: tl.constexpr):
    batch = tl.program_id(2).to(tl.int64) * m * n
    i = tl.program_id(1) * size + tl.arange(0, size)
    j = tl.program_id(0) * size + tl.arange(0, size)
    inside = (i[:, None] < m) & (j[None, :] < n)
    v = tl.load(x + batch + i[:, None].to(tl.int64) * n + j[None, :], mask=inside)
    there = out + batch + j[None, :].to(tl.int64) * m + i[:, None]
    tl.store(there, v, mask=inside)


# ----------------------------------------------------------------------------- by the bench's names
def call(kernel, inputs, outputs, eps):
    """A function that runs the operator on these tensors, or None where there is none here."""
    x, out = inputs[0], outputs[0]
    if kernel in ("matmul", "linear", "batch_matmul"):
        return _product(kernel, x, inputs[1], out)
    if kernel in ("transpose", "batch_transpose"):
        m, n = x.shape[-2:]
        grid = (triton.cdiv(n, 64), triton.cdiv(m, 64), x.shape[0] if x.dim() == 3 else 1)
        return lambda: transpose[grid](out, x, m, n, 64, num_warps=8)
    if kernel in ("add_mul", "silu_mul"):
        count, block = x.numel(), 2048
        grid, function = (triton.cdiv(count, block),), add_mul if kernel == "add_mul" else silu_mul
        return lambda: function[grid](out, *inputs, count, block, num_warps=8)
    return _rows(kernel, inputs, outputs, eps)


def _product(kernel, a, b, c):
    if kernel == "linear":
        b = b.t()
    if a.dim() == 2:
        a, b, c = a.unsqueeze(0), b.unsqueeze(0), c.unsqueeze(0)
    batch, m, k = a.shape
    n = b.shape[2]

    def grid(meta):
        return triton.cdiv(m, meta["BM"]) * triton.cdiv(n, meta["BN"]), batch

    return lambda: product[grid](
        a, b, c, m, n, k, a.stride(1), a.stride(2), b.stride(1), b.stride(2), c.stride(1),
        c.stride(2), a.stride(0), b.stride(0), c.stride(0),
    )  # fmt: skip


def _rows(kernel, inputs, outputs, eps):
    x, out = inputs[0], outputs[0]
    if x.dim() != 2 or x.shape[1] > LONGEST:
        return None
    rows, columns = x.shape
    size = triton.next_power_of_2(columns)
    more = {"num_warps": min(32, max(4, size // 1024))}
    grid = (rows,)
    if kernel in ("softmax", "log_softmax"):
        log = kernel == "log_softmax"
        return lambda: softmax[grid](out, x, columns, size, log, **more)
    if kernel == "cross_entropy":
        return lambda: cross_entropy[grid](out, x, inputs[1], columns, size, **more)
    if kernel in ("layernorm", "rmsnorm"):
        centred = kernel == "layernorm"
        gamma, beta = inputs[1], inputs[-1]
        return lambda: norm[grid](out, x, gamma, beta, columns, eps, size, centred, **more)
    if kernel == "add_rmsnorm":
        return lambda: add_rmsnorm[grid](
            out, outputs[1], x, inputs[1], inputs[2], columns, eps, size, **more
        )
    if kernel == "row_sum":
        return lambda: row_sum[grid](out, x, columns, size, **more)
    return None
