# Everything is in f32: there is no rounding to leave out.
graph "norm_in_f32"
opset "" 20
input %x: f32[batch, seq, 256]
const %w: f32[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %inv: f32[1] = [103.1367]
%sq = pow(%x, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x, %r)
%y = mul(%w, %n)
%m = mul(%y, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
