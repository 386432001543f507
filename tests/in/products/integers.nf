# Products of 8-bit integers: those that the library has (a weight of rows, zero points that are zeros), and those that only the kernel
# has: a weight of columns, a zero point, bytes without a sign, columns that are no multiple of 8.
graph "integers"
opset "" 20
input %x: i8[batch, 3, 64]
input %u: u8[batch, 3, 64]
input %w: i8[48, 64]
input %v: i8[64, 48]
input %odd: i8[44, 64]
const %none: i8[] = 0
const %three: i8[] = 3
%wt = transpose(%w) {perm=[1, 0]}
%ot = transpose(%odd) {perm=[1, 0]}
%a = matmul_integer(%x, %wt)
%b = matmul_integer(%x, %wt, %none, %none)
%c = matmul_integer(%x, %wt, %three)
%d = matmul_integer(%x, %v)
%e = matmul_integer(%u, %wt)
%f = matmul_integer(%x, %ot)
output %a as "a"
output %b as "b"
output %c as "c"
output %d as "d"
output %e as "e"
output %f as "f"
