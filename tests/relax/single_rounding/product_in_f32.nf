# The product with one plus the weight is in f32, behind a residual sum that is handed out; only the cast goes.
graph "product_in_f32"
opset "" 20
input %x: bf16[batch, seq, 256]
input %res: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
const %fmax: f32[] = 448.0
const %groups: i64[4] = [0, 0, 2, 128]
const %flat: i64[3] = [0, 0, 256]
%h = add(%x, %res)
%x32 = cast(%h) {to=f32}
%sq = pow(%x32, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%w32 = cast(%w) {to=f32}
%w1 = add(%w32, %one)
%p = mul(%n, %w1)
%y = cast(%p) {to=bf16}
%v = reshape(%y, %groups)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%s = div(%am, %fmax)
%d = div(%v32, %s)
%qg = cast(%d) {to=f8e4m3fn}
%q = reshape(%qg, %flat)
output %q
output %s
output %h
