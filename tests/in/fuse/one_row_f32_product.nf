# One row, as long as its weight, times that weight in f32 and rounded: the product is one in 16 bits, too, and the norm is one.
graph "one_row_f32_product"
opset "" 20
input %x: f16[1, 1, 16]
input %res: f16[1, 1, 16]
const %w: f16[16] = fill(1.25)
const %eps: f32[] = 1e-5
const %scale: f32[] = 0.03125
const %low: f32[] = -448.0
const %high: f32[] = 448.0
%h = add(%x, %res)
%h32 = cast(%h) {to=f32}
%sq = mul(%h32, %h32)
%ms = reduce_mean(%sq) {axes=[-1]}
%ve = add(%ms, %eps)
%rt = sqrt(%ve)
%r = reciprocal(%rt)
%n = mul(%h32, %r)
%n16 = cast(%n) {to=f16}
%n32 = cast(%n16) {to=f32}
%w32 = cast(%w) {to=f32}
%p = mul(%w32, %n32)
%y = cast(%p) {to=f16}
%y32 = cast(%y) {to=f32}
%d = div(%y32, %scale)
%c = clip(%d, %low, %high)
%q = cast(%c) {to=f8e4m3fn}
output %q
