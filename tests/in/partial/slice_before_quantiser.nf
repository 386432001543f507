# A slice that drops the last token, and one that turns the tokens round: what is quantised is not what the norm makes.
graph "slices"
opset "" 20
input %x: bf16[batch, 8, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %inv: f32[] = 103.1367
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %start: i64[1] = [0]
const %end: i64[1] = [-1]
const %last: i64[1] = [-1]
const %first: i64[1] = [-9223372036854775807]
const %axes: i64[1] = [1]
const %back: i64[1] = [-1]
%x32 = cast(%x) {to=f32}
%sq = mul(%x32, %x32)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%x32, %r)
%nc = cast(%n) {to=bf16}
%y = mul(%w, %nc)
%y1 = slice(%y, %start, %end, %axes)
%y1w = cast(%y1) {to=f32}
%m1 = mul(%y1w, %inv)
%c1 = clip(%m1, %fmin, %fmax)
%q1 = cast(%c1) {to=f8e4m3fn}
%y2 = slice(%y, %last, %first, %axes, %back)
%y2w = cast(%y2) {to=f32}
%m2 = mul(%y2w, %inv)
%c2 = clip(%m2, %fmin, %fmax)
%q2 = cast(%c2) {to=f8e4m3fn}
output %q1
output %q2
