# As heads_in_groups, of a row that is one group: the quantiser looked at it through a group axis, so it is a group and no token.
graph "heads_in_one_group"
opset "" 21
input %y: bf16[batch, seq, 2, 64]
input %w: f32[128, 32]
const %flat: i64[3] = [0, 0, 128]
const %groups: i64[4] = [0, 0, 1, 128]
const %floor: f32[] = 1.0e-4
const %top: f32[] = 448.0
%row = reshape(%y, %flat)
%v = reshape(%row, %groups)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%amc = clip(%am, %floor)
%s = div(%amc, %top)
%d = div(%v32, %s)
%q0 = cast(%d) {to=f8e4m3fn}
%q = reshape(%q0, %flat)
%s1 = squeeze(%s) {axes=[-1]}
%x = dequantize_linear(%q, %s1) {axis=-1, block_size=128}
%z = matmul(%x, %w)
output %z
