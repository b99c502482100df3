//! What a VM is, in a word: the label of the nearest prototype on robustly scaled, weighted traits. Must never guess:
//! what is as near to two labels, or near to none, is not known.
//!
//! Scale of a trait: the median absolute deviation over all prototypes, at least the trait's grain. Weight: the part of
//! its variance that lies between labels and not within them (Fisher's ratio). Deviations are cut at
//! [`DEVIATION_MAX`].

use super::traits::middle;
use proteus_model::personality::{
    Candidate, Evidence, Judgement, Label, Prototype, TRAITS, Trait, TraitVector,
};
use proteus_model::unit::three_digits;
use std::collections::BTreeMap;

/// Largest deviation that counts.
const DEVIATION_MAX: f32 = 4.0;
/// Beyond this distance a VM is like nothing that was seen.
const DISTANCE_MAX: f32 = 1.25;
/// The nearest label must be nearer than this part of the distance of the next.
const NEARER: f32 = 0.8;
/// Fewest traits that a VM and a prototype must share.
const SHARED_MIN: usize = 4;
/// How much nearer a label comes where all CPU of the guest is used by its programs. What a guest says is advice: it
/// brings a label nearer and rules none out.
const PROGRAMS_WEIGHT: f32 = 0.6;
/// Pieces of evidence that are told.
const EVIDENCE_MAX: usize = 6;

/// Programs that speak for a label, by the kernel's name of their process (15 characters at most).
const PROGRAMS: [(&str, &[&str]); 8] = [
    ("web frontend", &["nginx", "apache2", "httpd", "haproxy", "caddy", "lighttpd", "traefik", "envoy"]),
    ("cache", &["redis-server", "valkey-server", "memcached", "varnishd", "keydb-server"]),
    ("database", &["postgres", "mysqld", "mariadbd", "mongod", "cockroach", "clickhouse-serv"]),
    (
        "build farm",
        &["cc1", "cc1plus", "as", "ld", "gcc", "g++", "clang", "rustc", "cargo", "make", "ninja", "javac"],
    ),
    ("batch analytics", &["gzip", "bzip2", "xz", "zstd", "pigz", "ffmpeg", "Rscript", "duckdb"]),
    ("file server", &["smbd", "nfsd", "proftpd", "vsftpd", "minio", "rsync"]),
    ("desktop", &["Xorg", "gnome-shell", "kwin_wayland", "kwin_x11", "firefox", "chromium", "plasmashell"]),
    ("development", &["code", "sshd-session", "vim", "emacs", "gdb", "node"]),
];

/// Programs of a guest and their share of all CPU time that its processes used, 0–1, by the guest's word.
pub type Programs = BTreeMap<String, f32>;

/// The nearest prototype of a label.
#[derive(Clone, Copy)]
struct Near<'a> {
    distance: f32,
    prototype: &'a Prototype,
    taught: bool,
}

/// All prototypes, ready to be held against.
#[derive(Debug, Clone)]
pub struct Labels {
    prototypes: Vec<Prototype>,
    /// How many of them, the first, ship with Proteus; the others were taught.
    shipped: usize,
    /// By trait: the median over all prototypes, the deviation from it, and how much the trait counts.
    center: [f32; TRAITS],
    scale: [f32; TRAITS],
    weight: [f32; TRAITS],
}

/// The prototypes that ship with Proteus, recorded from real guests (`proteus bench personality --record`).
pub fn shipped() -> Vec<Prototype> {
    // Checked by a test: it is whole.
    serde_json::from_str(include_str!("prototypes.json")).unwrap_or_default()
}

/// The label that speaks of this program.
fn label_of(program: &str) -> Option<&'static str> {
    PROGRAMS.iter().find(|(_, programs)| programs.contains(&program)).map(|(label, _)| *label)
}

/// Share of the guest's CPU that is used by programs of a label, or of one of its prototypes, and the one that uses
/// most.
fn share_of<'a>(programs: &'a Programs, label: &Label, named: &[String]) -> (f32, Option<&'a str>) {
    let speaks = |name: &String| label_of(name) == Some(label.as_str()) || named.contains(name);
    let own = programs.iter().filter(|(name, _)| speaks(name));
    let most = own.clone().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.as_str());
    (own.map(|(_, share)| share.clamp(0.0, 1.0)).sum::<f32>().min(1.0), most)
}

fn variance(values: &[f32]) -> f32 {
    let mean = values.iter().sum::<f32>() / values.len().max(1) as f32;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len().max(1) as f32
}

impl Labels {
    /// Those that ship, and those that people taught, which come first where both are about as near: whoever pointed
    /// at a VM knew it.
    pub fn with_taught(taught: impl IntoIterator<Item = Prototype>) -> Self {
        let mut all = shipped();
        let shipped = all.len();
        all.extend(taught);
        Self { shipped, ..Self::new(&all) }
    }

    /// Scales and weighs the traits by these prototypes.
    pub fn new(prototypes: &[Prototype]) -> Self {
        let (mut centers, mut scale, mut weight) = ([0.0; TRAITS], [1.0; TRAITS], [0.0; TRAITS]);
        for this in Trait::ALL {
            let mut by_label: BTreeMap<&Label, Vec<f32>> = BTreeMap::new();
            for prototype in prototypes {
                by_label.entry(&prototype.label).or_default().extend(prototype.traits.get(this));
            }
            by_label.retain(|_, values| !values.is_empty());
            let mut all: Vec<f32> = by_label.values().flatten().copied().collect();
            let Some(center) = middle(&mut all) else { continue };
            centers[this as usize] = center;
            let mut off: Vec<f32> = all.iter().map(|value| (value - center).abs()).collect();
            // 1.4826: a normal distribution's standard deviation in its median absolute deviation.
            scale[this as usize] = (1.4826 * middle(&mut off).unwrap_or(0.0)).max(this.grain());
            let means: Vec<f32> =
                by_label.values().map(|of| of.iter().sum::<f32>() / of.len() as f32).collect();
            let within = by_label.values().map(|of| variance(of)).sum::<f32>() / by_label.len() as f32;
            let between = variance(&means);
            weight[this as usize] = between / (between + within + this.grain().powi(2));
        }
        Self { prototypes: prototypes.to_vec(), shipped: prototypes.len(), center: centers, scale, weight }
    }

    /// How much a trait counts, 0–1.
    pub fn weight(&self, this: Trait) -> f32 {
        self.weight[this as usize]
    }

    /// What is one deviation of a trait, on its own scale.
    pub fn scale(&self, this: Trait) -> f32 {
        self.scale[this as usize]
    }

    /// How far a value of a trait is from the median of all prototypes, in robust deviations, cut off at 4.
    pub fn off_center(&self, this: Trait, value: f32) -> f32 {
        ((value - self.center[this as usize]) / self.scale(this)).clamp(-DEVIATION_MAX, DEVIATION_MAX)
    }

    /// Which labels there are, in order.
    pub fn names(&self) -> Vec<&Label> {
        let mut names: Vec<&Label> = self.prototypes.iter().map(|prototype| &prototype.label).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn deviation(&self, this: Trait, a: &TraitVector, b: &TraitVector) -> Option<f32> {
        let off = (a.get(this)? - b.get(this)?) / self.scale(this);
        Some(off.clamp(-DEVIATION_MAX, DEVIATION_MAX))
    }

    /// Distance of two vectors: weighted root mean square of their deviations over the traits that both have;
    /// `None`: they share too few to say.
    pub fn distance(&self, a: &TraitVector, b: &TraitVector) -> Option<f32> {
        let (mut sum, mut weights, mut shared) = (0.0, 0.0, 0);
        for this in Trait::ALL {
            if let Some(off) = self.deviation(this, a, b) {
                sum += self.weight(this) * off * off;
                weights += self.weight(this);
                shared += 1;
            }
        }
        (shared >= SHARED_MIN && weights > 0.0).then(|| (sum / weights).sqrt())
    }

    /// What moved between two vectors, the most first.
    pub fn moved(&self, from: &TraitVector, to: &TraitVector) -> Vec<Evidence> {
        let piece = |this: Trait| {
            let off = self.deviation(this, to, from)?;
            let (before, now) = (this.natural(from.get(this)?), this.natural(to.get(this)?));
            let seen =
                format!("{}: {} before, {} now", this.meaning(), three_digits(before), three_digits(now));
            Some(Evidence { of: Some(this), seen, weight: self.weight(this) * off * off })
        };
        strongest(Trait::ALL.into_iter().filter_map(piece).collect())
    }

    /// What a VM of these traits is. `programs`: what the guest says of its own programs, where it is heard.
    pub fn judge(&self, vector: &TraitVector, programs: Option<&Programs>) -> Judgement {
        // The nearest prototype of each label, and how near.
        let mut nearest: BTreeMap<&Label, Near<'_>> = BTreeMap::new();
        for (index, prototype) in self.prototypes.iter().enumerate() {
            let Some(distance) = self.distance(vector, &prototype.traits) else { continue };
            let share = |programs| share_of(programs, &prototype.label, &prototype.programs).0;
            let distance = distance * (1.0 - PROGRAMS_WEIGHT * programs.map_or(0.0, share));
            let near = Near { distance, prototype, taught: index >= self.shipped };
            let known = nearest.entry(&prototype.label).or_insert(near);
            if distance < known.distance {
                *known = near;
            }
        }
        let mut order: Vec<Near<'_>> = nearest.into_values().collect();
        order.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        let candidate =
            |near: &Near<'_>| Candidate { label: near.prototype.label.clone(), distance: near.distance };
        let mut judgement = Judgement {
            label: None,
            confidence: 0.0,
            candidates: order.iter().map(candidate).collect(),
            evidence: Vec::new(),
            why_not: None,
            with_guest: programs.is_some() || vector.known().any(|(this, _)| this.is_of_guest()),
        };
        let preferred = prefer_taught(&mut order);
        let Some(first) = order.first() else {
            judgement.why_not = Some("too little was measured".to_owned());
            return judgement;
        };
        let (label, d1) = (&first.prototype.label, first.distance);
        let second = order.get(1);
        let d2 = second.map_or(DISTANCE_MAX, |second| second.distance);
        judgement.confidence = if d1 + d2 > 0.0 { d2 / (d1 + d2) } else { 0.5 };
        let other = second.map(|second| &second.prototype.traits);
        judgement.evidence = self.evidence(vector, first.prototype, other, programs);
        if d1 > DISTANCE_MAX {
            judgement.why_not = Some(format!("it is like nothing that is known, {label} is the nearest"));
        } else if d1 >= NEARER * d2 && !preferred {
            let other = second.map_or_else(String::new, |second| second.prototype.label.to_string());
            judgement.why_not = Some(format!("it is nearly as much {other} as {label}"));
        } else {
            judgement.label = Some(label.clone());
        }
        judgement
    }

    /// Why it is as the nearest prototype, and not as the next one.
    fn evidence(
        &self,
        vector: &TraitVector,
        nearest: &Prototype,
        other: Option<&TraitVector>,
        programs: Option<&Programs>,
    ) -> Vec<Evidence> {
        let own = &nearest.traits;
        let weights: f32 = vector.known().map(|(this, _)| self.weight(this)).sum::<f32>().max(f32::EPSILON);
        let piece = |(this, value): (Trait, f32)| {
            let near = self.deviation(this, vector, own)?;
            // With no runner-up, beside what is a scale away.
            let far = other.map_or(Some(1.0), |other| self.deviation(this, vector, other))?;
            let weight = self.weight(this) * (far * far - near * near) / weights;
            let seen = format!(
                "{}: {} (typical: {})",
                this.meaning(),
                three_digits(this.natural(value)),
                three_digits(this.natural(own.get(this)?))
            );
            Some(Evidence { of: Some(this), seen, weight })
        };
        let mut all: Vec<Evidence> = vector.known().filter_map(piece).collect();
        if let Some(programs) = programs
            && let (share, Some(most)) = share_of(programs, &nearest.label, &nearest.programs)
        {
            let seen = format!("{most} and the like use {:.0} % of its CPU, the guest says", share * 100.0);
            all.push(Evidence { of: None, seen, weight: share });
        }
        strongest(all)
    }
}

/// Brings to the front the label that was taught where the nearest or the next is one and the other is not, and both
/// are about as near. Whether it is so.
fn prefer_taught(order: &mut [Near<'_>]) -> bool {
    let [first, second, ..] = order else { return false };
    let torn = first.distance >= NEARER * second.distance;
    if torn && second.taught && !first.taught && second.distance <= DISTANCE_MAX {
        std::mem::swap(first, second);
    }
    torn && first.taught && !second.taught
}

fn strongest(mut all: Vec<Evidence>) -> Vec<Evidence> {
    all.sort_by(|a, b| b.weight.abs().total_cmp(&a.weight.abs()));
    all.truncate(EVIDENCE_MAX);
    all
}

/// Windows in a row that must agree before a VM bears another label.
pub const AGREED: usize = 3;

/// The label that a VM bears: it changes once [`AGREED`] windows in a row say the same.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelWatch {
    borne: Option<Label>,
    next: Option<Label>,
    agreed: usize,
}

impl LabelWatch {
    /// One that bears a label already.
    pub fn resume(borne: Option<Label>) -> Self {
        Self { borne, next: None, agreed: 0 }
    }

    /// The label that it bears.
    pub fn borne(&self) -> Option<&Label> {
        self.borne.as_ref()
    }

    /// Takes in what the next window says; whether the label changed.
    pub fn push(&mut self, said: Option<&Label>) -> bool {
        if said == self.borne.as_ref() {
            self.agreed = 0;
            return false;
        }
        if said != self.next.as_ref() || self.agreed == 0 {
            (self.next, self.agreed) = (said.cloned(), 0);
        }
        self.agreed += 1;
        if self.agreed < AGREED {
            return false;
        }
        (self.borne, self.agreed) = (self.next.take(), 0);
        true
    }
}

#[cfg(test)]
mod tests;
