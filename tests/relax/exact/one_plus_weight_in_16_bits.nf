# One plus the weight is rounded to bf16, too: more than one rounding would go.
graph "one_plus_weight_in_16_bits"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %inv: f32[1] = [103.1367]
const %one16: bf16[] = 1.0
%x32 = cast(%x) {to=f32}
%sq = pow(%x32, %two)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%nc = cast(%n) {to=bf16}
%w1 = add(%w, %one16)
%y = mul(%nc, %w1)
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
