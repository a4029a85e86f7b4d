//! Custom resources, and the only translation between Kubernetes objects and the core.
//!
//! One module for each object. `read` turns an object into the core's words, or says why it cannot be read: what people or
//! other programs have written never stops anything. `build`, and the functions named after a part, go the other way.
//! Nothing outside this crate knows a label, an annotation or a CEL expression.
//!
//! [`reference`] is the page of the documentation that is made from all this.
//!
//! | module | object | written by |
//! |---|---|---|
//! | [`node_device`] | `NodeUSBDevice` | spec: people, status: controller |
//! | [`usb_device`] | `USBDevice` | controller |
//! | [`virtual_machine`] | `VirtualMachine` | spec: people, status: controller |
//! | [`operation`] | `VirtualMachineOperation` | spec: people, status: controller |
//! | [`slice`] | `ResourceSlice` | agent |
//! | [`claim`] | `ResourceClaim` | controller, people, kube-controller-manager, kube-scheduler |
//! | [`port`] | `ResourceClaimTemplate` of a vhci port | controller |
//! | [`template`] | `ResourceClaimTemplate` of a device, for ordinary pods | controller |
//! | [`class`] | `DeviceClass` | installation |
//! | [`attachment`] | `Pod` that stands for an attachment | controller; the `Plugged` condition: agent |
//! | [`vm_pod`] | `Pod` that runs a virtual machine | controller |
//! | [`event`] | `Event` of a device or a machine | controller |
//! | [`migration`] | annotations and the condition of such a pod when its machine moves | annotations: controller; condition: agent |
//! | [`target_pod`] | `Pod` to which a virtual machine moves | controller |
//! | [`budget`] | `PodDisruptionBudget` of a virtual machine | controller |
//! | [`installation`] | what the installation is made of: definitions, policies, workloads | installation |
//! | [`rights`] | `SubjectAccessReview` of what our programs need to do | whoever asks |
//! | [`certificate_request`] | `CertificateSigningRequest` of an agent | agent; approval and certificate: controller |
//! | [`authorities`] | `Secret` and `ConfigMap` of those who sign agents | controller |
//! | [`node`], [`namespace`] | `Node`, `Namespace` | others |

pub mod attachment;
pub mod authorities;
pub mod budget;
pub mod certificate_request;
pub mod claim;
pub mod class;
pub mod crds;
pub mod device_status;
pub mod event;
pub mod installation;
pub mod keys;
pub mod meta;
pub mod migration;
pub mod namespace;
pub mod node;
pub mod node_device;
pub mod operation;
mod pod_trouble;
pub mod port;
pub mod quantity;
pub mod reference;
mod restricted;
pub mod rights;
mod rules;
pub mod slice;
pub mod target_pod;
pub mod template;
pub mod usb_device;
pub mod virtual_machine;
pub mod vm_pod;

pub use meta::Unreadable;
pub use node_device::NodeUSBDevice;
pub use operation::VirtualMachineOperation;
pub use usb_device::USBDevice;
pub use virtual_machine::VirtualMachine;

#[cfg(test)]
mod samples;
