//! The pages of the documentation: where their links lead, and the tasks, done as they are written.

pub mod links;
pub mod page;
pub mod play;
pub mod quotes;
pub mod reasons;
pub mod same;
