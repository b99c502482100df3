//! What each command does: ask the API, print the answer, give back an exit code.

mod collected;

mod inside;

mod label;

mod report;

mod backfill;

mod snapshot;

mod top;

mod transfer;

mod uplink;

mod usage;

pub use label::whole as personality_text;

use crate::argument::{
    Allocation, Arm, Audit, Command, Disarm, Goal, Host, Morph, OutputForm, Profile, RoleWord, Token, Vm,
    VmCreate,
};
use crate::client::{Client, Connect, segment};
use crate::error::{CommandError, usage};
use crate::file;
use crate::follow::follow;
use crate::intent::intent_of;
use crate::output;
use crate::terminal;
use crate::wait::wait_serving;
use proteus_model::id::VmName;
use proteus_model::plan::Plan;
use proteus_model::profile::document;
use proteus_protocol::api::v1::{
    AbortRequest, AllocationView, ArmRequest, ArmView, AuditView, CapabilityView, CloneRequest,
    ConsoleRequest, ConsoleView, DeleteView, DifferenceView, DocumentRequest, EXEC_STDIN_BYTES_MAX,
    EXEC_TIMEOUT_MAX, ExecRequest, ExecView, HostView, MorphRequest, MorphView, PlanRequest, ProfileView,
    RenameRequest, Role, ServiceView, StopRequest, StopView, TokenRequest, TokenView, VersionView, VmView,
};
use proteus_protocol::guest::v1::Blob;
use serde::Serialize;
use serde_json::json;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A client and how answers are written.
pub struct Session {
    /// The client.
    pub client: Client,
    /// Text or JSON.
    pub form: OutputForm,
    /// Makes connections over TLS to other servers than Proteus, trusting the authority in a file.
    pub tls: fn(Option<PathBuf>) -> Arc<dyn Connect>,
}

type Outcome = Result<u8, CommandError>;

/// Questions that are asked at once.
const AT_ONCE: usize = 8;

/// Asks all of them, some at once; the answers in no order.
async fn each<T, F>(questions: impl Iterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for question in questions {
        let turns = turns.clone();
        asked.spawn(async move {
            let _turn = turns.acquire().await;
            question.await
        });
    }
    asked.join_all().await
}

impl Session {
    fn print(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        match self.form {
            OutputForm::Json => {
                let json = serde_json::to_string_pretty(value).unwrap_or_default();
                terminal::say(format_args!("{json}"));
            }
            OutputForm::Text => terminal::write(&text()),
        }
    }

    /// Runs a command that is a request to the API. `None`: it is not one.
    pub async fn run(&self, command: &Command) -> Option<Outcome> {
        Some(match command {
            Command::Vm(vm) => self.vm(vm).await,
            Command::Profile(profile) => self.profile(profile).await,
            Command::Morph(morph) => self.morph(morph).await,
            Command::Host(Host::Show) => self.host().await,
            Command::Host(Host::Uplink(uplink)) => self.uplink(uplink).await,
            Command::Allocation(Allocation::Show) => self.allocation().await,
            Command::Disarm(Disarm { vm, hold }) => self.disarm(vm.clone(), *hold).await,
            Command::Arm(Arm { vm }) => self.arm(vm.clone()).await,
            Command::Audit(audit) => self.audit(audit).await,
            Command::Token(token) => self.token(token).await,
            Command::Personality(command) => self.personality(command).await,
            Command::Telemetry(command) => self.transfer(command).await,
            Command::Report(report) => self.report(report).await,
            Command::Top(top) => self.top(top).await,
            Command::Serve(_)
            | Command::Demo(_)
            | Command::Doctor
            | Command::Image(_)
            | Command::Store(_)
            | Command::Bench(_)
            | Command::Completion { .. } => return None,
        })
    }

    async fn vm(&self, vm: &Vm) -> Outcome {
        match vm {
            Vm::Create(create) => self.create(create).await,
            Vm::Start { vm, wait } => self.start(vm, *wait).await,
            Vm::Stop { vm, grace } => {
                let path = format!("/vms/{}/stop", segment(vm));
                let view: StopView = self.client.post(&path, &StopRequest { grace_ms: *grace }).await?;
                self.print(&view, || output::stopped(vm, &view));
                Ok(0)
            }
            Vm::Rename { vm, name, dry_run } => {
                let path = format!("/vms/{}/rename", segment(vm));
                let request = RenameRequest { name: name.clone() };
                let view: VmView = self.client.post(&asked(&path, *dry_run), &request).await?;
                let done = if *dry_run { "could be called" } else { "is called" };
                self.print(&view, || format!("{vm} {done} {name}\n"));
                Ok(0)
            }
            Vm::Template { vm, dry_run } => self.template(vm, *dry_run).await,
            Vm::Clone { template, name, wait, dry_run } => {
                self.clone_vm(template, name, *wait, *dry_run).await
            }
            Vm::Delete { vm, dry_run } => self.delete(vm, *dry_run).await,
            Vm::List => {
                let all: Vec<VmView> = self.client.get("/vms").await?;
                self.print(&all, || output::vms(&all));
                Ok(0)
            }
            Vm::Show { vm, personality: true } => self.show_personality(vm).await,
            Vm::Show { vm, personality: false } => self.show(vm).await,
            Vm::Differences { vm } => {
                let all: Vec<DifferenceView> =
                    self.client.get(&format!("/vms/{}/differences", segment(vm))).await?;
                self.print(&all, || output::differences(vm, &all));
                Ok(0)
            }
            Vm::Console { vm, dump } => self.console(vm, *dump).await,
            Vm::Collectors(request) => self.collectors(request).await,
            Vm::Configuration { vm, since, until } => self.configuration(vm, *since, *until).await,
            Vm::Watch { vm, count } => self.watch(vm, *count).await,
            Vm::History(history) => self.usage_history(history).await,
            Vm::Snapshot(command) => self.snapshot(command).await,
            Vm::Exec { vm, stdin, service, timeout, argv } => {
                let given = if *stdin {
                    Blob(file::read_bounded(Path::new("-"), EXEC_STDIN_BYTES_MAX as u64)?)
                } else {
                    Blob::default()
                };
                let request = ExecRequest {
                    argv: found_by_name(argv),
                    service: service.clone(),
                    stdin: given,
                    timeout_ms: *timeout,
                };
                self.exec(vm, &request).await
            }
        }
    }

    async fn delete(&self, vm: &str, dry_run: bool) -> Outcome {
        let path = format!("/vms/{}", segment(vm));
        let view: VmView = self.client.get(&path).await?;
        let DeleteView { not_given_back } = self.client.delete(&asked(&path, dry_run)).await?;
        let whole = json!({ "deleted": !dry_run, "vm": view.name, "not_given_back": not_given_back });
        self.print(&whole, || output::deleted(&view.name, dry_run, &not_given_back));
        Ok(0)
    }

    async fn show(&self, vm: &str) -> Outcome {
        let path = format!("/vms/{}", segment(vm));
        let view: VmView = self.client.get(&path).await?;
        let running = view.power == proteus_model::vm::PowerState::Running;
        let report = match running {
            true => Some(self.client.get::<CapabilityView>(&format!("{path}/capabilities")).await?.report),
            false => None,
        };
        let services: Option<Vec<ServiceView>> = match view.agent {
            // An agent that falls silent just now keeps nobody from seeing the rest.
            Some(_) => self.client.get(&format!("{path}/services")).await.ok(),
            None => Some(Vec::new()),
        };
        // It would be waited for once more, for each knob of its.
        let is_heard = services.is_some();
        let services = services.unwrap_or_default();
        let differences: Option<Vec<DifferenceView>> = match running && is_heard && view.morph.is_none() {
            // A knob that cannot be read just now keeps nobody from seeing the rest.
            true => self.client.get(&format!("{path}/differences")).await.ok(),
            false => None,
        };
        let whole = json!({
            "vm": view, "capabilities": report, "services": services, "differences": differences,
        });
        self.print(&whole, || {
            output::vm(&view, report.as_ref(), &services, &differences.unwrap_or_default())
        });
        Ok(0)
    }

    async fn create(&self, create: &VmCreate) -> Outcome {
        let intent = intent_of(create)?;
        if create.dry_run {
            // Proteus says it: only there is it known which names are taken.
            let view: VmView = self.client.post(&asked("/vms", true), &intent).await?;
            self.print(&view.intent, || format!("would create {}\n", view.name));
            return Ok(0);
        }
        let view: VmView = self.client.post("/vms", &intent).await?;
        self.print(&view, || format!("created {}; `proteus vm start {}` starts it\n", view.name, view.name));
        Ok(0)
    }

    async fn start(&self, vm: &str, wait: bool) -> Outcome {
        let path = format!("/vms/{}", segment(vm));
        let mut view: VmView = self.client.post(&format!("{path}/start"), &json!({})).await?;
        if wait {
            view = wait_serving(&self.client, view, START_LIMIT).await?;
        }
        self.print(&view, || output::vms(std::slice::from_ref(&view)));
        Ok(0)
    }

    async fn template(&self, vm: &str, dry_run: bool) -> Outcome {
        let path = format!("/vms/{}/template", segment(vm));
        let view: VmView = self.client.post(&asked(&path, dry_run), &json!({})).await?;
        let done = if dry_run { "would end and become" } else { "ended and is" };
        self.print(&view, || {
            format!("{0} {done} a template; `proteus vm clone {0} NAME` starts a VM from it\n", view.name)
        });
        Ok(0)
    }

    async fn clone_vm(&self, template: &str, name: &VmName, wait: bool, dry_run: bool) -> Outcome {
        let path = format!("/vms/{}", segment(template));
        let request = CloneRequest { name: name.clone(), dry_run };
        let mut view: VmView = self.client.post(&format!("{path}/clone"), &request).await?;
        if dry_run {
            self.print(&view, || {
                format!("would start {name} from {template}, with {}\n", view.intent.memory)
            });
            return Ok(0);
        }
        if wait {
            view = wait_serving(&self.client, view, START_LIMIT).await?;
        }
        self.print(&view, || output::vms(std::slice::from_ref(&view)));
        Ok(0)
    }

    async fn console(&self, vm: &str, dump: bool) -> Outcome {
        let path = format!("/vms/{}/console", segment(vm));
        if dump {
            let view: ConsoleView = self.client.get(&path).await?;
            self.print(&view, || view.text.clone());
            return Ok(0);
        }
        if self.form == OutputForm::Json {
            let what = "what a console shows has no end, and is no JSON value".to_owned();
            return Err(usage(what, "--dump gives what is there now as one"));
        }
        // Nothing is typed yet: it is opened, which is refused where the VM does not run.
        let () = self.client.post(&path, &ConsoleRequest { text: String::new() }).await?;
        terminal::say_aside(format_args!(
            "console of {vm}; what you type is sent at each line's end; Ctrl-C leaves"
        ));
        self.type_lines(&path);
        let mut from = 0;
        loop {
            let view: ConsoleView = self.client.get(&format!("{path}?from={from}")).await?;
            from = view.next;
            // A reader that went away is no failure; `print!` would panic over it.
            terminal::write(&view.text);
            if view.ended {
                terminal::say_aside(format_args!("{vm} has ended"));
                return Ok(0);
            }
            tokio::time::sleep(CONSOLE_PAUSE).await;
        }
    }

    fn type_lines(&self, path: &str) {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<String>(16);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if sender.blocking_send(line + "\n").is_err() {
                    break;
                }
            }
        });
        let (client, path) = (self.client.clone(), path.to_owned());
        tokio::spawn(async move {
            while let Some(text) = receiver.recv().await {
                let typed: Result<(), _> = client.post(&path, &ConsoleRequest { text }).await;
                if let Err(error) = typed {
                    terminal::say_aside(format_args!("not typed: {error}"));
                }
            }
        });
    }

    async fn exec(&self, vm: &str, request: &ExecRequest) -> Outcome {
        let timeout = request.timeout_ms;
        let view: ExecView = self.client.post(&format!("/vms/{}/exec", segment(vm)), request).await?;
        if self.form == OutputForm::Json {
            self.print(&view, String::new);
        } else {
            terminal::write(&view.stdout);
            terminal::write_aside(&view.stderr);
        }
        if let Some(note) = output::cut(&view) {
            self.aside(&(note + "\n"));
        }
        if view.timed_out {
            let hint = format!(
                "give it more with --timeout, {EXEC_TIMEOUT_MAX} at most; begin what takes longer in the background, as in \
                 `sh -c 'PROGRAM >FILE 2>&1 &'`, and look at FILE later"
            );
            return Err(CommandError::TimedOut {
                what: format!("the program was ended after {timeout}"),
                hint,
            });
        }
        Ok(view.exit_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    async fn profile(&self, profile: &Profile) -> Outcome {
        match profile {
            Profile::Validate { files } => {
                let read = |path: &PathBuf| {
                    Ok((file::name_of(path), file::read_bounded(path, document::TEXT_BYTES_MAX as u64)?))
                };
                self.validate(&files.iter().map(read).collect::<Result<Vec<_>, CommandError>>()?)
            }
            Profile::List => {
                let all: Vec<ProfileView> = self.client.get("/profiles").await?;
                self.print(&all, || output::profiles(&all));
                Ok(0)
            }
            Profile::Show { label } => {
                let view: ProfileView = self.client.get(&format!("/profiles/{}", segment(label))).await?;
                let text = serde_json::to_string_pretty(&view.document).unwrap_or_default() + "\n";
                self.print(&view, || text);
                Ok(0)
            }
            Profile::Push { file, dry_run } => {
                let bytes = file::read_bounded(file, document::TEXT_BYTES_MAX as u64)?;
                let failed = |source| CommandError::File { path: file.clone(), source };
                let text = String::from_utf8(bytes).map_err(|e| failed(std::io::Error::other(e)))?;
                let request = DocumentRequest { file: file::name_of(file), text, dry_run: *dry_run };
                let view: ProfileView = self.client.post("/profiles", &request).await?;
                let done = if *dry_run { "would take" } else { "took" };
                self.print(&view, || {
                    format!("{done} {} (unsigned, digest {})\n", view.label, &view.digest[..12])
                });
                Ok(0)
            }
        }
    }

    /// Checks documents here: this needs no server.
    fn validate(&self, documents: &[(String, Vec<u8>)]) -> Outcome {
        let mut problems = Vec::new();
        for (name, text) in documents {
            if let Err(found) = document::parse(name, text, None) {
                problems.extend(found.iter().map(ToString::to_string));
            }
        }
        let report = json!({ "valid": problems.is_empty(), "problems": problems });
        self.print(&report, || match problems.as_slice() {
            [] => format!(
                "{} valid\n",
                if documents.len() == 1 { "the profile is" } else { "all profiles are" }
            ),
            all => all.join("\n") + "\n",
        });
        Ok(if problems.is_empty() { 0 } else { 1 })
    }

    async fn plan(&self, vm: &str, request: &PlanRequest) -> Result<Plan, CommandError> {
        Ok(self.client.post(&format!("/vms/{}/plan", segment(vm)), request).await?)
    }

    async fn morph(&self, morph: &Morph) -> Outcome {
        match morph {
            Morph::Plan { vm, goal, snapshot, skip_unsupported } => {
                let plan = self.plan(vm, &plan_request(goal, *snapshot)).await?;
                self.print(&plan, || output::plan(&plan, *skip_unsupported));
                Ok(0)
            }
            Morph::Apply { vm, goal, snapshot, skip_unsupported, dry_run, detach } => {
                let plan = self.plan(vm, &plan_request(goal, *snapshot)).await?;
                self.apply(plan, *skip_unsupported, *dry_run, *detach).await
            }
            Morph::Rollback { vm, to, snapshot, dry_run } => {
                let request =
                    PlanRequest { version: Some(*to), snapshot: *snapshot, ..PlanRequest::default() };
                let plan = self.plan(vm, &request).await?;
                // A version may hold what this host no longer does; a snapshot that was asked for is not left out.
                self.apply(plan, !snapshot, *dry_run, false).await
            }
            Morph::Status { morph } => {
                let view: MorphView = self.client.get(&format!("/morphs/{}", segment(morph))).await?;
                self.print(&view.morph, || output::morph(&view.morph));
                Ok(0)
            }
            Morph::Abort { morph, hold } => {
                let path = format!("/morphs/{}/abort", segment(morph));
                let view: MorphView = self.client.post(&path, &AbortRequest { hold: *hold }).await?;
                let ended = follow(&self.client, view.morph.id, self.form == OutputForm::Json).await?;
                self.print(&ended, || output::morph(&ended));
                Ok(0)
            }
            Morph::History { vm, limit, before } => {
                let before = before.as_ref().map(|before| format!("&before={}", segment(before)));
                let query = format!("limit={limit}{}", before.unwrap_or_default());
                self.history(vm.as_deref(), &query).await
            }
        }
    }

    async fn history(&self, vm: Option<&str>, query: &str) -> Outcome {
        if let Some(vm) = vm {
            let path = format!("/vms/{}/versions?{query}", segment(vm));
            let all: Vec<VersionView> = self.client.get(&path).await?;
            let all: Vec<_> = all.into_iter().map(|view| view.version).collect();
            self.print(&all, || output::versions(vm, &all));
            return Ok(0);
        }
        let all: Vec<MorphView> = self.client.get(&format!("/morphs?{query}")).await?;
        let earlier = all.last().and_then(|view| view.earlier).unwrap_or(0);
        let all: Vec<_> = all.into_iter().map(|view| view.morph).collect();
        self.print(&all, || output::morphs(&all, earlier));
        Ok(0)
    }

    /// Something beside the answer, for people: programs get one value on standard output, and one where it failed.
    fn aside(&self, text: &str) {
        if self.form == OutputForm::Text {
            terminal::write_aside(text);
        }
    }

    async fn apply(&self, plan: Plan, skip_unsupported: bool, dry_run: bool, detach: bool) -> Outcome {
        if dry_run {
            self.print(&plan, || output::plan(&plan, skip_unsupported));
            // Shown also where it cannot begin; Proteus says whether it could.
            let _: MorphView =
                self.client.post("/morphs", &MorphRequest { plan, skip_unsupported, dry_run }).await?;
            return Ok(0);
        }
        self.aside(&output::plan(&plan, skip_unsupported));
        let request = MorphRequest { plan, skip_unsupported, dry_run };
        let view: MorphView = self.client.post("/morphs", &request).await?;
        if detach {
            self.print(&view.morph, || format!("{}\n", view.morph.id));
            return Ok(0);
        }
        let ended = follow(&self.client, view.morph.id, self.form == OutputForm::Json).await?;
        self.print(&ended, || output::morph(&ended));
        Ok(output::morph_exit(ended.state))
    }

    async fn host(&self) -> Outcome {
        let view: HostView = self.client.get("/host").await?;
        self.print(&view, || output::host(&view));
        Ok(0)
    }

    async fn allocation(&self) -> Outcome {
        let view: AllocationView = self.client.get("/allocation").await?;
        self.print(&view, || output::allocation(&view));
        Ok(0)
    }

    async fn disarm(&self, vm: Option<String>, hold: bool) -> Outcome {
        let view: ArmView = self.client.post("/disarm", &ArmRequest { vm, hold }).await?;
        self.print(&view, || format!("disarmed; {} running morphs were told to stop\n", view.morphs_told));
        Ok(0)
    }

    async fn arm(&self, vm: Option<String>) -> Outcome {
        let () = self.client.post("/arm", &ArmRequest { vm, hold: false }).await?;
        self.print(&json!({ "armed": true }), || "armed\n".to_owned());
        Ok(0)
    }

    async fn audit(&self, Audit { limit, before }: &Audit) -> Outcome {
        let before = before.map(|before| format!("&before={before}")).unwrap_or_default();
        let view: AuditView = self.client.get(&format!("/audit?limit={limit}{before}")).await?;
        self.print(&view, || output::audit(&view));
        Ok(if view.intact { 0 } else { 1 })
    }

    async fn token(&self, token: &Token) -> Outcome {
        match token {
            Token::Create { name, role } => {
                let role = match role {
                    RoleWord::Viewer => Role::Viewer,
                    RoleWord::Operator => Role::Operator,
                    RoleWord::Admin => Role::Admin,
                };
                let view: TokenView =
                    self.client.post("/tokens", &TokenRequest { name: name.clone(), role }).await?;
                self.print(&view, || format!("{}\n", view.secret.clone().unwrap_or_default()));
            }
            Token::List => {
                let all: Vec<TokenView> = self.client.get("/tokens").await?;
                self.print(&all, || output::tokens(&all));
            }
            Token::Revoke { name } => {
                let () = self.client.delete(&format!("/tokens/{}", segment(name))).await?;
                self.print(&json!({ "revoked": name }), || format!("revoked {name}\n"));
            }
        }
        Ok(0)
    }
}

/// How often a console is looked at.
const CONSOLE_PAUSE: Duration = Duration::from_millis(200);

/// A path of a request that is to be carried out, or only to be answered as if it were.
fn asked(path: &str, dry_run: bool) -> String {
    if dry_run { format!("{path}?dry_run=true") } else { path.to_owned() }
}

/// Longest wait for a VM to serve: a loaded, emulated guest that makes its database first.
const START_LIMIT: Duration = Duration::from_secs(300);

fn plan_request(goal: &Goal, snapshot: bool) -> PlanRequest {
    PlanRequest { profile: goal.profile.clone(), version: None, fresh_vmm: goal.fresh_vmm, snapshot }
}

/// A program without a path is looked up by the shell inside: the agent takes absolute paths only.
fn found_by_name(argv: &[String]) -> Vec<String> {
    let bare = argv.first().is_some_and(|program| !program.is_empty() && !program.contains('/'));
    let shell: &[&str] = if bare { &["/bin/sh", "-c", "exec \"$@\"", "sh"] } else { &[] };
    shell.iter().copied().map(str::to_owned).chain(argv.iter().cloned()).collect()
}
