// JupyterLab's and Notebook's part of lis_kernel, as it is written: there is no build.
//
// Both load this file and then treat `window._JUPYTERLAB['lis-kernel']` as a module federation
// container: `init` is given the modules that they share, `get` is asked for the plugins and the
// style. Tokens must come from the shared modules, as plugins are matched by identity.
(() => {
  'use strict';

  const here = document.currentScript.src;
  let modules = {};

  // A shared module, undefined where the application has none of that name.
  async function shared(name) {
    const [version] = Object.values(modules[name] ?? {});
    return version && (await version.get())();
  }

  // -- a trajectory's cells, by their tags -------------------------------------------------------

  const PREFIX = 'lis-';

  // What style.css goes by: data-lis="call execute_bash".
  function mark(cell) {
    const tags = cell.model.getMetadata('tags');
    const ours = (Array.isArray(tags) ? tags : [])
      .filter(tag => typeof tag === 'string' && tag.startsWith(PREFIX))
      .map(tag => tag.slice(PREFIX.length));
    if (ours.length > 0) {
      cell.node.dataset.lis = ours.join(' ');
    } else {
      delete cell.node.dataset.lis;
    }
  }

  function watch(notebook) {
    const watched = new WeakSet();
    const look = () => {
      for (const cell of notebook.widgets) {
        if (!watched.has(cell.model)) {
          watched.add(cell.model);
          cell.model.metadataChanged.connect(() => mark(cell));
        }
        mark(cell);
      }
    };
    const follow = () => {
      notebook.model?.cells.changed.connect(look);
      look();
    };
    notebook.modelChanged.connect(follow);
    follow();
  }

  // -- links of the live view ---------------------------------------------------------------------

  // Jupyter opens the links of an output; those of a widget would leave the page, and the view.
  function openLinks(app, panel, { PathExt }) {
    panel.node.addEventListener('click', event => {
      const address = event.target.closest?.('.lis-live a[href]')?.getAttribute('href');
      if (address && !/^([a-z][a-z0-9+.-]*:|[/#?])/i.test(address)) {
        event.preventDefault();
        const folder = PathExt.dirname(panel.context.path);
        app.commands.execute('docmanager:open', {
          path: PathExt.join(folder, decodeURIComponent(address))
        });
      }
    });
  }

  // -- the page /lis/runs as a tab ---------------------------------------------------------------

  const COMMAND = 'lis-kernel:runs';
  const LOGO =
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect x="3" y="3" width="58" ' +
    'height="58" rx="13" fill="#0f766e"/><path d="M14 20h6m7 0h23M14 32h6m7 0h23M14 44h6m7 0h23" ' +
    'stroke="#f0fdfa" stroke-width="5" stroke-linecap="round"/></svg>';

  // Links of the page to notebooks below the server's root open beside it, not instead of it.
  function openBeside(app, frame, base) {
    const front = new URL('lab/tree/', base).href;
    frame.addEventListener('load', () => {
      frame.contentDocument?.addEventListener('click', event => {
        const link = event.target.closest?.('a[href]');
        if (link?.href.startsWith(front)) {
          event.preventDefault();
          const path = decodeURIComponent(link.href.slice(front.length));
          app.commands.execute('docmanager:open', { path });
        }
      });
    });
  }

  function addRuns(app, { apputils, icon, base }, palette, restorer, launcher) {
    const address = `${base}lis/runs`;
    const tracker = new apputils.WidgetTracker({ namespace: 'lis-runs' });
    const show = () => {
      const content = new apputils.IFrame({
        sandbox: [
          'allow-same-origin', 'allow-scripts', 'allow-forms', 'allow-downloads',
          'allow-popups', 'allow-popups-to-escape-sandbox'
        ]
      });
      content.addClass('lis-runs');
      content.url = address;
      const widget = new apputils.MainAreaWidget({ content });
      widget.id = 'lis-runs';
      widget.title.label = 'Agent runs';
      widget.title.icon = icon;
      widget.title.closable = true;
      openBeside(app, content.node.querySelector('iframe'), base);
      tracker.add(widget);
      app.shell.add(widget, 'main');
      return widget;
    };
    app.commands.addCommand(COMMAND, {
      label: 'Agent Runs',
      caption: 'The runs of agents on this server: state, cost, answers, notebooks',
      icon,
      execute: () => {
        if (!launcher) { // Notebook, whose windows hold one document each
          window.open(address, '_blank', 'noopener');
          return;
        }
        app.shell.activateById((tracker.currentWidget ?? show()).id);
      }
    });
    launcher?.add({ command: COMMAND, category: 'Other', rank: 10 });
    palette?.addItem({ command: COMMAND, category: 'lis_kernel' });
    if (launcher) {
      restorer?.restore(tracker, { command: COMMAND, name: () => 'runs' });
    }
  }

  async function plugins() {
    const { INotebookTracker } = await shared('@jupyterlab/notebook');
    const apputils = await shared('@jupyterlab/apputils');
    const application = await shared('@jupyterlab/application');
    const launcher = await shared('@jupyterlab/launcher');
    const coreutils = await shared('@jupyterlab/coreutils');
    const { LabIcon } = await shared('@jupyterlab/ui-components');
    const icon = new LabIcon({ name: 'lis-kernel:runs', svgstr: LOGO });
    const notebooks = {
      id: 'lis-kernel:notebooks',
      description: "Styles a trajectory's cells by their tags, and opens what a live view links to.",
      autoStart: true,
      requires: [INotebookTracker],
      activate: (app, tracker) => {
        const added = panel => {
          watch(panel.content);
          openLinks(app, panel, coreutils);
        };
        tracker.forEach(added);
        tracker.widgetAdded.connect((_, panel) => added(panel));
      }
    };
    const runs = {
      id: 'lis-kernel:runs',
      description: 'Opens the page of runs from the launcher and the command palette.',
      autoStart: true,
      optional: [
        apputils.ICommandPalette,
        application.ILayoutRestorer,
        ...(launcher ? [launcher.ILauncher] : []) // none in some applications
      ],
      activate: (app, ...parts) =>
        addRuns(app, { apputils, icon, base: coreutils.PageConfig.getBaseUrl() }, ...parts)
    };
    return { __esModule: true, default: [notebooks, runs] };
  }

  function style() {
    const link = document.createElement('link');
    link.rel = 'stylesheet';
    link.href = new URL('style.css', here).href;
    document.head.append(link);
    return {};
  }

  (window._JUPYTERLAB ??= {})['lis-kernel'] = {
    init: scope => {
      modules = scope;
    },
    get: async name => {
      const made = name === './style' ? style() : await plugins();
      return () => made;
    }
  };
})();
