# The left side has its tokens along the columns.
graph "gemm_of_columns"
input %q: f8e4m3fn[64, batch]
input %s: f32[1, batch]
input %w: f8e4m3fn[6, 64]
input %ws: f32[1]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%y = gemm(%x, %wd) {alpha=1.0, beta=1.0, trans_a=true, trans_b=true}
output %y as "y"
