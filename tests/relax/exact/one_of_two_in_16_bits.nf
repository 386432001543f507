# Two quantisers of one value, and only one of them computes in f32.
graph "one_of_two_in_16_bits"
opset "" 21
input %x: f16[batch, seq, 256]
const %w: f16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %inv: f32[1] = [103.1367]
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
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
%q8 = quantize_linear(%y, %s) {axis=1, block_size=0, to=i8, saturate=true}
output %q8
