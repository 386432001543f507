//! normfuse
