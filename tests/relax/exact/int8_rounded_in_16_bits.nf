# INT8 whose quotient and rounding are in bf16.
graph "int8_rounded_in_16_bits"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %hi: bf16[] = 127.0
const %lo: bf16[] = -128.0
const %is: bf16[] = 0.0303
%x32 = cast(%x) {to=f32}
%sq = pow(%x32, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%nc = cast(%n) {to=bf16}
%y = mul(%w, %nc)
%d = div(%y, %is)
%rd = round(%d)
%c = clip(%rd, %lo, %hi)
%q = cast(%c) {to=i8}
output %q
