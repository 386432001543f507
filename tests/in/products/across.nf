# Operands that transposes turn: weights, both sides of a product, keys of heads that lie side by side, and one that others read, too.
graph "across"
opset "" 20
input %x: f32[batch, 3, 64]
input %a: f32[64, batch]
input %k: f32[1, batch, 4, 16]
input %q: bf16[1, 4, batch, 32]
input %l: bf16[1, 4, 9, 32]
const %w: f32[48, 64] = fill(0.125)
const %each: i64[3] = [4, -1, 16]
const %turned: i64[3] = [4, 16, -1]
%wt = transpose(%w) {perm=[1, 0]}
%y = matmul(%x, %wt)
%at = transpose(%a) {perm=[1, 0]}
%z = matmul(%at, %wt)
%zt = transpose(%z) {perm=[1, 0]}
%zz = matmul(%zt, %z)
%e = tanh(%zt)
%kh = transpose(%k) {perm=[0, 2, 1, 3]}
%kt = transpose(%kh) {perm=[0, 1, 3, 2]}
%ke = reshape(%kh, %each)
%kr = reshape(%kt, %turned)
%s = matmul(%ke, %kr)
%lt = transpose(%l) {perm=[0, 1, 3, 2]}
%t = matmul(%q, %lt)
output %y as "y"
output %zz as "zz"
output %e as "e"
output %s as "s"
output %t as "t"
