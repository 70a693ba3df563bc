//! The names of an Envelope's fields.

/// The fields of an Envelope, in the order in which jxt-core writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    EventId,
    AggregateId,
    EventType,
    EventVersion,
    Timestamp,
    TraceId,
    CorrelationId,
    TenantId,
    Payload,
}

impl Field {
    pub(super) const ALL: [Self; 9] = [
        Self::EventId,
        Self::AggregateId,
        Self::EventType,
        Self::EventVersion,
        Self::Timestamp,
        Self::TraceId,
        Self::CorrelationId,
        Self::TenantId,
        Self::Payload,
    ];

    pub(super) fn name(self) -> &'static str {
        let opening = self.opening();
        &opening[1..opening.len() - 2]
    }

    /// What a member with this name starts with when it is written without escapes and spaces.
    pub(super) fn opening(self) -> &'static str {
        const OPENINGS: [&str; 9] = [
            "\"event_id\":",
            "\"aggregate_id\":",
            "\"event_type\":",
            "\"event_version\":",
            "\"timestamp\":",
            "\"trace_id\":",
            "\"correlation_id\":",
            "\"tenant_id\":",
            "\"payload\":",
        ];
        OPENINGS[self as usize]
    }

    pub(super) fn is_optional(self) -> bool {
        matches!(self, Self::TraceId | Self::CorrelationId | Self::TenantId)
    }

    /// Its bit in a set of fields.
    pub(super) fn bit(self) -> u16 {
        1 << self as u16
    }
}
