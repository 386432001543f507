# A scale a row on both sides, and on one side alone.
graph "rows"
input %a: f8e4m3fn[batch, seq, 64]
input %b: f8e4m3fn[48, 64]
input %sa: f32[batch, seq, 1]
input %sb: f32[48, 1]
input %one: f32[1, 1]
%y = scaled_matmul(%a, %b, %sa, %sb) {a=row, b=row, to=bf16}
%z = scaled_matmul(%a, %b, %one, %sb) {a=tensor, b=row, to=bf16}
%u = scaled_matmul(%a, %b, %sa, %one) {a=row, b=tensor, to=bf16}
output %y as "y"
output %z as "z"
output %u as "u"
