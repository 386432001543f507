# What is added is an element for each result, and no bias.
graph "gemm_adds_a_matrix"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[6, 64]
input %ws: f32[1]
input %c: f32[batch, 6]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%y = gemm(%x, %wd, %c) {alpha=1.0, beta=1.0, trans_a=false, trans_b=true}
output %y as "y"
