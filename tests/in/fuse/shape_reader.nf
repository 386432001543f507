# TorchScript asks the normed value for its sizes: the rows answer, and the normed value is not written for that.
graph "shape_reader"
opset "" 19
input %x: f32[batch, seq, 256]
const %w: f32[256] = fill(1.25)
const %eps: f32[] = 1e-5
const %two: f32[] = 2.0
const %one: f32[] = 1.0
const %inv: f32[] = 103.1367
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%sq = pow(%x, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = div(%one, %rt)
%n = mul(%x, %r)
%y = mul(%w, %n)
%sizes = shape(%y)
%m = mul(%y, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
output %sizes
