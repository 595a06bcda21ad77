//! Error classification and retry schedules with time passed in.
