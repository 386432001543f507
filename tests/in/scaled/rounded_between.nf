# The numbers are rounded to 16 bits, and widened again for a product in f32: that is in the deviation.
graph "rounded_between"
input %q: f8e4m3fn[batch, 64]
input %s: bf16[batch, 1]
input %w: f8e4m3fn[6, 64]
input %ws: f32[6, 1]
%qh = cast(%q) {to=bf16}
%xh = mul(%qh, %s)
%x = cast(%xh) {to=f32}
%wf = cast(%w) {to=f32}
%w32 = mul(%wf, %ws)
%wh = cast(%w32) {to=bf16}
%wd = cast(%wh) {to=f32}
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
