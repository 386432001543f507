# Codes that are rounded and clipped, made by way of 32 bits.
graph "quant_int8_by_int32"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c127: f32[] = 127.0
const %lo: f32[] = -128.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%y32 = cast(%y) {to=f32}
%ab = abs(%y32)
%am = reduce_max(%ab) {axes=[-1]}
%s = div(%am, %c127)
%d = div(%y32, %s)
%r = round(%d)
%c = clip(%r, %lo, %c127)
%i = cast(%c) {to=i32}
%q = cast(%i) {to=i8}
output %q
output %s
