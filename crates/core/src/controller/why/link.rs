//! The links of the chain, and what they are called.

/// A link between a device's cable and the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// A node has it.
    Cable,
    /// The node's agent publishes it in a `ResourceSlice`.
    Slice,
    /// Its `NodeUSBDevice` is there, and it can be used.
    Ready,
    /// An administrator has given it to a namespace, which exists.
    Assigned,
    /// Its `USBDevice` is in that namespace, and in no other.
    Given,
    /// An ordinary pod has it: the chain ends here.
    Pod,
    /// A virtual machine lists it.
    Listed,
    /// That machine runs.
    Running,
    /// It has an attachment pod, and nobody else has the device.
    Attachment,
    /// kube-scheduler has found device and port for that.
    Scheduled,
    /// The kubelet has prepared them.
    Prepared,
    /// The agent has plugged it into the guest.
    Plugged,
}

impl Link {
    /// Those of the way into a virtual machine, in order.
    pub const TO_A_GUEST: [Self; 11] = [
        Self::Cable,
        Self::Slice,
        Self::Ready,
        Self::Assigned,
        Self::Given,
        Self::Listed,
        Self::Running,
        Self::Attachment,
        Self::Scheduled,
        Self::Prepared,
        Self::Plugged,
    ];

    /// What it is called in a list.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Cable => "plugged in",
            Self::Slice => "published",
            Self::Ready => "ready",
            Self::Assigned => "assigned",
            Self::Given => "in its namespace",
            Self::Pod => "in a pod",
            Self::Listed => "listed",
            Self::Running => "machine runs",
            Self::Attachment => "attachment made",
            Self::Scheduled => "scheduled",
            Self::Prepared => "prepared",
            Self::Plugged => "in the guest",
        }
    }
}
