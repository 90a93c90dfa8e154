//! Notifiers and metrics against what others wrote: exim, Prometheus and its Alertmanager, from Debian's packages.
//!
//! `cargo xtask test` makes the root directory with their programs and names it in `LINK_WATCHER_SERVERS`. It is only read; all
//! servers run in network namespaces of the lab.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use link_watcher_lab::Lab;
use link_watcher_lab::daemon::binary;
use link_watcher_lab::metrics::{self, scrape};
use link_watcher_lab::netns::Namespace;
use link_watcher_lab::service::Service;
use link_watcher_lab::setup::Setup;
use link_watcher_lab::trial::{PATIENCE, Trial};
use link_watcher_programs::{CHROOT, own};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use support::given;

/// A root directory with the servers, in the calling thread's mount namespace.
struct Servers {
    root: PathBuf,
    _memory: tempfile::TempDir,
}

impl Servers {
    fn new() -> Self {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let memory = tempfile::tempdir().unwrap();
        let root = support::overlay(&given("LINK_WATCHER_SERVERS"), memory.path()).unwrap();
        mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none).unwrap();
        mount(Some("/dev"), &root.join("dev"), none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
        Self { root, _memory: memory }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A command there.
    fn command(&self, line: &[&str]) -> Command {
        let mut command = CHROOT.command();
        command.arg(&self.root).args(line).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs what has to succeed, with `input` on its standard input; what it says.
    fn done(&self, namespace: &Namespace, line: &[&str], input: &str) -> String {
        fs::write(self.path("/tmp/input"), input).unwrap();
        let mut command = self.command(line);
        command.stdin(fs::File::open(self.path("/tmp/input")).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = namespace.spawn(&mut command).unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{line:?}: {said}");
        said
    }

    /// What an API answers.
    fn ask(&self, namespace: &Namespace, url: &str) -> Value {
        let said = self.done(namespace, &["curl", "--silent", "--retry", "20", "--retry-connrefused", url], "");
        serde_json::from_str(&said).unwrap_or(Value::Null)
    }
}

/// For openssl: a certificate for `localhost`, which is no authority.
const CERTIFICATE: &str = "[req]\ndistinguished_name=name\nx509_extensions=more\nprompt=no\n[name]\nCN=localhost\n\
                           [more]\nsubjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n";

/// Takes mail from whoever has logged in under TLS, and writes it to a file.
const EXIM: &str = "
keep_environment =
primary_hostname = localhost
daemon_smtp_ports = 587 : 465
tls_on_connect_ports = 465
tls_advertise_hosts = *
tls_certificate = /etc/exim4/exim.crt
tls_privatekey = /etc/exim4/exim.key
acl_smtp_rcpt = rcpt
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
begin acl
rcpt:
  accept authenticated = *
  deny message = log in first
begin routers
all:
  driver = accept
  transport = file
begin transports
file:
  driver = appendfile
  file = /var/mail/taken
  user = mail
  group = mail
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{router}}{eq{$auth3}{hunter2}}}}
  server_set_id = $auth2
";

/// A configuration with mail notifiers; `notify-test` sends nothing else.
fn mail_configuration(directory: &Path) -> PathBuf {
    let mut text = String::from(
        "[[peer]]\nname = \"hq\"\nrole = \"client\"\nkey-files = [\"hq.key\"]\nroutes = [\"203.0.113.0/24\"]\n\
         [[peer.link]]\nname = \"a\"\ninterface = \"lo\"\nremote = \"127.0.0.2\"\n",
    );
    for (name, smtp, further) in [
        ("starttls", "smtp://router@localhost:587", "tls = \"required\"\npassword-file = \"password\""),
        ("tls", "smtps://router@localhost:465", "password-file = \"password\""),
        ("wrong", "smtps://router@localhost:465", "password-file = \"wrong\""),
        ("nobody", "smtps://localhost:465", ""),
    ] {
        text += &format!(
            "[[notify]]\nkind = \"email\"\nname = \"{name}\"\nfrom = \"router@example.com\"\nto = [\"noc@example.com\"]\n\
             smtp = \"{smtp}\"\n{further}\n"
        );
    }
    let path = directory.join("mail.toml");
    fs::write(&path, text).unwrap();
    path
}

#[test]
#[ignore = "needs root and the servers: cargo xtask test"]
fn exim_takes_mail_under_tls_from_whoever_logs_in() {
    let servers = Servers::new();
    let lab = Lab::new().unwrap();
    let namespace = lab.namespace("mail").unwrap();
    fs::write(servers.path("/etc/exim4/certificate.cnf"), CERTIFICATE).unwrap();
    let [certificate, key] = ["/etc/exim4/exim.crt", "/etc/exim4/exim.key"];
    let mut make = vec!["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
    make.extend(["-config", "/etc/exim4/certificate.cnf", "-keyout", key, "-out", certificate]);
    servers.done(&namespace, &make, "");
    servers.done(&namespace, &["chown", "root:Debian-exim", key], "");
    servers.done(&namespace, &["chmod", "640", key], "");
    fs::write(servers.path("/etc/exim4/exim4.conf"), EXIM).unwrap();
    let exim = Service::start(&lab, &namespace, "exim", &mut servers.command(&["exim4", "-bdf", "-q30m"])).unwrap();
    lab.wait_until("exim to listen", PATIENCE, || {
        exim.check()?;
        Ok(namespace.run(|| std::net::TcpStream::connect("127.0.0.1:587"))?.ok())
    })
    .unwrap();

    let directory = lab.directory();
    let program = binary().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = own(&program);
        command.args(arguments).current_dir(directory).env("SSL_CERT_FILE", servers.path(certificate));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = namespace.spawn(&mut command).unwrap().wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    run(&["key", "generate", "hq.key"]);
    for name in ["password", "wrong"] {
        // Made with the mode that secrets have; then with what exim knows, or not.
        run(&["key", "generate", name]);
        fs::write(directory.join(name), if name == "password" { "hunter2\n" } else { "hunter3\n" }).unwrap();
    }
    let said = run(&["notify-test", "--config", mail_configuration(directory).to_str().unwrap()]);
    let of = |name: &str| said.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    for name in ["starttls", "tls"] {
        assert!(of(&format!("{name} (email)")).contains("taken: localhost:"), "{said}\n{}", exim.log());
    }
    assert!(of("wrong").contains("FAILED") && of("wrong").contains("535"), "{said}");
    assert!(of("nobody").contains("FAILED") && of("nobody").contains("log in first"), "{said}");
    let taken = || {
        let text = fs::read_to_string(servers.path("/var/mail/taken")).unwrap_or_default();
        Ok((text.matches("This is a test of the notifier").count() == 2).then_some(()))
    };
    lab.wait_until("both mails to be delivered", PATIENCE, taken).unwrap();
}

/// Scrapes the daemon, evaluates our rules every second, and tells Alertmanager.
const PROMETHEUS: &str = "
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [/etc/prometheus/link-watcher.yml]
scrape_configs:
  - job_name: link-watcher
    static_configs: [{targets: ['127.0.0.1:9746']}]
";

const ALERTMANAGER: &str = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n";

const HOOK: &str = "[[notify]]\nkind = \"webhook\"\nname = \"alerts\"\nurl = \"http://127.0.0.1:9093/api/v2/alerts\"\n\
                    template = \"alertmanager\"\nmin-interval = \"0s\"\n";

#[test]
#[ignore = "needs root and the servers: cargo xtask test"]
fn prometheus_scrapes_and_alertmanager_is_told_of_a_failure_and_its_end() {
    let servers = Servers::new();
    let settings = format!("{}{HOOK}", metrics::SETTINGS);
    let setup = Setup { daemon_settings: settings, ..Setup::cables(2, Duration::from_millis(50), 3) };
    let trial = Trial::start(Lab::new().unwrap(), setup, &binary().unwrap(), 1000).unwrap();
    let (routers, lab) = (&trial.routers, &trial.routers.lab);
    let client = &*routers.client;
    let said = servers.done(client, &["promtool", "check", "metrics"], &scrape(&routers.client_daemon).unwrap());
    assert_eq!(said, "", "promtool has nothing to complain about");

    let rules = own(binary().unwrap()).args(["generate", "alerts"]).output().unwrap().stdout;
    fs::write(servers.path("/etc/prometheus/link-watcher.yml"), rules).unwrap();
    fs::write(servers.path("/etc/prometheus/prometheus.yml"), PROMETHEUS).unwrap();
    fs::write(servers.path("/etc/prometheus/alertmanager.yml"), ALERTMANAGER).unwrap();
    let start = |name: &str, further: &[&str]| {
        let line = [&[name], further].concat();
        Service::start(lab, client, name, &mut servers.command(&line)).unwrap()
    };
    let mut prometheus = vec!["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/prometheus"];
    prometheus.push("--web.listen-address=127.0.0.1:9090");
    let prometheus = start("prometheus", &prometheus);
    let mut alertmanager = vec!["--config.file=/etc/prometheus/alertmanager.yml", "--storage.path=/tmp/alertmanager"];
    // No cluster: it would talk to others.
    alertmanager.extend(["--web.listen-address=127.0.0.1:9093", "--cluster.listen-address="]);
    let alertmanager = start("prometheus-alertmanager", &alertmanager);

    let up = |link: &str, value: &str| {
        prometheus.check()?;
        let url = format!("http://127.0.0.1:9090/api/v1/query?query=link_watcher_link_up%7Blink%3D%22{link}%22%7D");
        let answer = servers.ask(client, &url);
        Ok((answer["data"]["result"][0]["value"][1] == value).then_some(()))
    };
    let first = trial.first().to_owned();
    lab.wait_until("Prometheus to have scraped the daemon", PATIENCE, || up(&first, "1")).unwrap();
    let loaded = servers.ask(client, "http://127.0.0.1:9090/api/v1/rules");
    let groups = loaded["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
    assert!(!rules.is_empty() && rules.iter().all(|rule| rule["lastError"].is_null()), "{loaded:#}");
    lab.wait_until("Alertmanager to answer", PATIENCE, || {
        alertmanager.check()?;
        Ok(servers.ask(client, "http://127.0.0.1:9093/api/v2/status").is_object().then_some(()))
    })
    .unwrap();

    trial.cut_first().unwrap();
    let alerts = |active: bool| {
        let answer = servers.ask(client, "http://127.0.0.1:9093/api/v2/alerts");
        let is = |alert: &Value| {
            alert["labels"]["alertname"] == "LinkWatcherLinkDown" && alert["labels"]["link"] == first.as_str()
        };
        Ok((answer.as_array().is_some_and(|alerts| alerts.iter().any(is)) == active).then_some(()))
    };
    lab.wait_until("Alertmanager to have the failure", PATIENCE, || alerts(true)).unwrap();
    lab.wait_until("Prometheus to see it", PATIENCE, || up(&first, "0")).unwrap();
    lab.wait_until("our rules to make an alert of it", PATIENCE, || {
        let answer = servers.ask(client, "http://127.0.0.1:9090/api/v1/alerts");
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        Ok(alerts.iter().any(|alert| alert["labels"]["alertname"] == "GroupWithoutSpareLink").then_some(()))
    })
    .unwrap();
    trial.repair().unwrap();
    lab.wait_until("Alertmanager to have its end", PATIENCE, || alerts(false)).unwrap();
}
