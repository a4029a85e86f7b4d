//! Kernel modules of a Debian package: which others one needs, and their code. The package brings no list of
//! dependencies (that is made when it is installed), so they are read from the modules themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::Command;

/// The modules of one kernel.
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    log: PathBuf,
}

/// A module and its code.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) code: Vec<u8>,
}

impl Module {
    /// The names of the modules it needs itself.
    pub(super) fn needs(&self) -> Vec<String> {
        needs(&self.code)
    }

    /// What the kernel may ask for when it means this module: names, and patterns of devices.
    pub(super) fn aliases(&self) -> Vec<&str> {
        fields(&self.code, b"alias=").collect()
    }
}

impl Modules {
    /// Looks for modules in `folder` and below.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub(super) fn open(folder: &Path, log: &Path) -> Result<Self> {
        let mut modules = Self { files: BTreeMap::new(), builtin: BTreeSet::new(), log: log.to_owned() };
        modules.scan(folder)?;
        Ok(modules)
    }

    /// The named modules and all they need, in an order in which they can be loaded.
    ///
    /// # Errors
    /// If one does not exist or cannot be read.
    pub(super) fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for name in names {
            self.visit(&normal(name), &mut BTreeSet::new(), &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, above: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
        if self.builtin.contains(name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else { bail!("the kernel has no module {name}") };
        if !above.insert(name.to_owned()) {
            bail!("the module {name} needs itself");
        }
        let code = self.read(path)?;
        for needed in needs(&code) {
            self.visit(&needed, above, order)?;
        }
        above.remove(name);
        order.push(Module { name: name.to_owned(), code });
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("xz") => Command::new("xz", &self.log).args(["-dc"]).args([path]).output(),
            _ => fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn scan(&mut self, folder: &Path) -> Result<()> {
        for file in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            if file.file_type()?.is_dir() {
                self.scan(&file.path())?;
            } else if name == "modules.builtin" {
                let list = fs::read_to_string(file.path())?;
                self.builtin.extend(list.lines().filter_map(|line| module_name(line.rsplit('/').next()?)));
            } else if let Some(module) = module_name(&name) {
                self.files.insert(module, file.path());
            }
        }
        Ok(())
    }
}

/// The module in a file, if there is one in it.
fn module_name(file: &str) -> Option<String> {
    Some(normal(file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?))
}

/// Names are written with `-` and with `_` for the same module.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// What the module says it needs: `depends=a,b` among its information, which are strings that end with NUL.
fn needs(code: &[u8]) -> Vec<String> {
    let names = fields(code, b"depends=").flat_map(|list| list.split(','));
    names.filter(|name| !name.is_empty()).map(normal).collect()
}

/// The values of one key among a module's information.
fn fields<'c>(code: &'c [u8], key: &'static [u8]) -> impl Iterator<Item = &'c str> {
    let fields = code.split(|byte| *byte == 0).filter_map(move |field| field.strip_prefix(key));
    fields.filter_map(|value| std::str::from_utf8(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> (tempfile::TempDir, Modules) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("drivers")).unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/lib/usb-common.ko\n").unwrap();
        for (name, needs) in files {
            let code = format!("code\0license=GPL\0depends={needs}\0name={name}\0");
            fs::write(folder.path().join("drivers").join(format!("{name}.ko")), code).unwrap();
        }
        let modules = Modules::open(folder.path(), &folder.path().join("log")).unwrap();
        (folder, modules)
    }

    #[test]
    fn a_module_comes_after_all_it_needs() {
        let (_folder, modules) =
            modules(&[("uas", "usb-storage,scsi_mod"), ("usb-storage", "scsi_mod,usb-common"), ("scsi_mod", "")]);
        let order: Vec<_> = modules.closure(&["uas", "usb_storage"]).unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(order, ["scsi_mod", "usb_storage", "uas"]);
    }

    #[test]
    fn a_module_that_does_not_exist_is_named() {
        let (_folder, modules) = modules(&[("a", "gone")]);
        assert_eq!(modules.closure(&["a"]).err().unwrap().to_string(), "the kernel has no module gone");
    }
}
