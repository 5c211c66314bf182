//! Ways out: the network, names, metadata services, and the sockets of the host. Each must fail at once: a time-out means
//! that a packet has left. Public addresses are those that are set apart for documentation (RFC 5737, 3849, 2544).

use crate::case::{Case, Wall, hidden, inside, node, python, refused};

/// The answers of a machine without a network.
const NO_WAY: &str = "ENETUNREACH EHOSTUNREACH EADDRNOTAVAIL EPERM EACCES EAFNOSUPPORT";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        hidden("interfaces", "found(n for n in (line.split(':')[0].strip() for line in content('/proc/net/dev').splitlines() if ':' in line) if n != 'lo')"),
        hidden("routes", "found(line.split()[:3] for line in content('/proc/net/route').splitlines()[1:])"),
        hidden("neighbours on the wire", "found(content('/proc/net/arp').splitlines()[1:])")
            .stands_because("the host may just know no neighbour"),
        hidden("sockets of the machine", "found(str(HOST['port']) for line in content('/proc/net/tcp').splitlines() if '%04X' % HOST['port'] in line)").on_host(),
        hidden("named sockets of the machine", "found(line for line in content('/proc/net/unix').splitlines() if HOST['token'] in line)").on_host(),
        way_out("metadata: 169.254.169.254", "reach(('169.254.169.254', 80))").outward(),
        way_out("metadata: a container's credentials", "reach(('169.254.170.2', 80))").outward(),
        way_out("metadata: 100.100.100.200", "reach(('100.100.100.200', 80))").outward(),
        way_out("metadata over IPv6", "reach(('fd00:ec2::254', 80), family=socket.AF_INET6)").outward(),
        way_out("a public address", "reach(('203.0.113.1', 443))"),
        way_out("a public address over IPv6", "reach(('2001:db8::1', 443), family=socket.AF_INET6)")
            .stands_because("needs a host with an IPv6 route"),
        way_out("a private address", "reach(('198.18.0.1', 80))"),
        way_out("the engine's bridge", "reach(('172.17.0.1', 22))"),
        way_out("a datagram to a name server", "reach(('203.0.113.53', 53), socket.SOCK_DGRAM)"),
        way_out("a datagram to the router", "reach(('172.17.0.1', 53), socket.SOCK_DGRAM)"),
        way_out("multicast", "reach(('224.0.0.251', 5353), socket.SOCK_DGRAM)"),
        way_out("broadcast", "attempt(lambda: (lambda s: (s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1), s.sendto(b'x', ('255.255.255.255', 9))))(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))"),
        python("a name look-up fails, and at once", Wall::Refused, "no-name", "start = time.monotonic()\nword = attempt(lambda: socket.getaddrinfo('exfiltrate.invalid', 80))\nword if time.monotonic() - start < 2 else 'slow: %.1f s' % (time.monotonic() - start)")
            .stands_because("a host without a name server cannot look anything up either"),
        python("a name server of the container engine", Wall::Refused, "ECONNREFUSED ENETUNREACH EPERM timeout", "attempt(lambda: (lambda s: (s.settimeout(1), s.connect(('127.0.0.11', 53)), s.send(bytes.fromhex('0a0a01000001000000000000076578616d706c6503636f6d0000010001')), s.recv(512)))(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))")
            .stands_because("only Docker's own networks have one"),
        hidden("name servers in resolv.conf that answer", "found(ns for ns in [line.split()[1] for line in content('/etc/resolv.conf').splitlines() if line.startswith('nameserver')] if reach((ns, 53), seconds=1) == 'allowed')")
            .stands_because("a host without a name server has none that answers"),
        python("the host's loopback", Wall::Refused, "ECONNREFUSED ENETUNREACH EADDRNOTAVAIL", "reach(('127.0.0.1', HOST['port']))").on_host(),
        python("the host's loopback over IPv6's clothes", Wall::Refused, "ECONNREFUSED ENETUNREACH EADDRNOTAVAIL EAFNOSUPPORT", "reach(('::ffff:127.0.0.1', HOST['port']), family=socket.AF_INET6)").on_host(),
        python("the host's abstract socket", Wall::Hidden, "ECONNREFUSED ENOENT EPERM", "reach('\\0' + HOST['token'], family=socket.AF_UNIX)").on_host(),
        python("the host's socket by its path", Wall::Hidden, "ENOENT ECONNREFUSED EACCES", "reach(HOST['socket'], family=socket.AF_UNIX)").on_host(),
        inside("a low port", "virtual(attempt(lambda: socket.socket().bind(('0.0.0.0', 81))))"),
        refused("an interface's settings", "import fcntl\nattempt(lambda: fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack('16sh22x', b'lo', 0x49)))")
            .also("ENOTTY"),
        python("requests to a metadata service", Wall::Refused, "ConnectionError", "import requests\nattempt(lambda: requests.get('http://169.254.169.254/latest/meta-data/', timeout=2))")
            .outward(),
        node("fetch from a metadata service", Wall::Refused, NO_WAY, "fetch('http://169.254.169.254/', { signal: AbortSignal.timeout(1500) }).then(() => 'allowed', (e) => e.cause?.code || e.name)")
            .outward(),
        node("connect to a public address", Wall::Refused, NO_WAY, "reach({ host: '203.0.113.1', port: 443 })"),
        node("the host's loopback from Node", Wall::Refused, "ECONNREFUSED ENETUNREACH EADDRNOTAVAIL", "reach({ host: '127.0.0.1', port: HOST.port })").on_host(),
        node("a look-up from Node", Wall::Refused, "EAI_AGAIN ENOTFOUND ECONNREFUSED", "new Promise((done) => dns.lookup('exfiltrate.invalid', (e) => done(e ? e.code : 'allowed')))")
            .stands_because("a host without a name server cannot look anything up either"),
        node("a datagram from Node", Wall::Refused, NO_WAY, "new Promise((done) => { const s = dgram.createSocket('udp4'); s.on('error', (e) => done(e.code)); s.send('x', 53, '203.0.113.53', (e) => { done(e ? e.code : 'allowed'); }); })"),
    ]
}

fn way_out(name: &'static str, code: &'static str) -> Case {
    python(name, Wall::Refused, NO_WAY, code)
}
