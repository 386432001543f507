# The quotient is rounded to f16: the quantiser takes no more than 16 bits.
graph "quantiser_in_16_bits"
opset "" 21
input %x: f16[batch, seq, 256]
const %w: f16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %s: f16[] = 0.0301971
%x32 = cast(%x) {to=f32}
%sq = pow(%x32, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%nc = cast(%n) {to=f16}
%y = mul(%w, %nc)
%q = quantize_linear(%y, %s) {axis=1, block_size=0, to=i8, saturate=true}
output %q
